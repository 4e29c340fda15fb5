"""The console script `paceline-drafter`."""

from __future__ import annotations

import sys

from paceline.drafter.datastore.command import IndexSettings, index
from paceline.drafter.models.export import ExportSettings, export
from paceline.drafter.service import serve
from paceline.drafter.settings import DrafterSettings
from paceline.drafter.version import VERSION
from paceline.wire.settings import Command, run_commands

COMMANDS = {
    "serve": Command("dial verifiers and draft for their sessions", DrafterSettings, serve),
    "index": Command("make a datastore of text files to draft from", IndexSettings, index),
    "export": Command("make a folder for --revision of a causal language model", ExportSettings, export),
}


def main() -> int:
    return run_commands("paceline-drafter", VERSION, COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
