"""The console script `paceline`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from paceline.cli.app import app


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command and exits with its code."""
    if folder := os.environ.get("BUILD_WORKING_DIRECTORY"):  # `bazel run` changes the folder; paths mean the user's
        os.chdir(folder)
    app(sys.argv[1:] if arguments is None else arguments, prog_name="paceline")


if __name__ == "__main__":
    main()
