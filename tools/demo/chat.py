"""`paceline chat`, from a checkout: ./bazelw run //:chat."""

import sys

from paceline.cli.__main__ import main

if __name__ == "__main__":
    main(["chat", *sys.argv[1:]])
