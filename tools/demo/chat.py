"""`paceline chat`, from a checkout: ./bazelw run //:chat."""

import typer

from paceline.cli.chat import main

if __name__ == "__main__":
    typer.run(main)
