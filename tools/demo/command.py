"""`paceline`, from a checkout: ./bazelw run //:paceline -- COMMAND."""

from paceline.cli.__main__ import main

if __name__ == "__main__":
    main()
