"""The console script `paceline-router`."""

from __future__ import annotations

import sys

from paceline.router.serve import serve
from paceline.router.settings import RouterSettings, StatusSettings
from paceline.router.status import show_status
from paceline.router.version import VERSION
from paceline.wire.settings import Command, run_commands

COMMANDS = {
    "serve": Command("take requests, choose verifiers and drafters, relay tokens", RouterSettings, serve),
    "status": Command("show who is registered and what was learnt", StatusSettings, show_status),
}


def main() -> int:
    return run_commands("paceline-router", VERSION, COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
