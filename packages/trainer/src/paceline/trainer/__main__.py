"""paceline-trainer: keeps lessons and revisions, and makes drafters."""

from __future__ import annotations

import sys

from paceline.trainer.recipes.command import bootstrap
from paceline.trainer.recipes.settings import BootstrapSettings
from paceline.trainer.remote import fetch, publish, revisions
from paceline.trainer.serve import serve
from paceline.trainer.settings import FetchSettings, PublishSettings, RevisionsSettings, TrainerSettings
from paceline.trainer.version import VERSION
from paceline.wire.settings import Command, run_commands

COMMANDS = {
    "serve": Command("keep lessons and revisions", TrainerSettings, serve),
    "bootstrap": Command("make a drafter from a target and prompts", BootstrapSettings, bootstrap),
    "publish": Command("publish a folder as a revision", PublishSettings, publish),
    "fetch": Command("fetch a revision, checking every byte", FetchSettings, fetch),
    "revisions": Command("list revisions", RevisionsSettings, revisions),
}


def main() -> int:
    return run_commands("paceline-trainer", VERSION, COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
