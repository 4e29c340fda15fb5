"""`paceline up`, from a checkout: ./bazelw run //:up."""

import typer

from paceline.cli.up import main

if __name__ == "__main__":
    typer.run(main)
