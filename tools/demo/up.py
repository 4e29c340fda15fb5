"""`paceline up`, from a checkout: ./bazelw run //:up."""

import sys

from paceline.cli.__main__ import main

if __name__ == "__main__":
    main(["up", *sys.argv[1:]])
