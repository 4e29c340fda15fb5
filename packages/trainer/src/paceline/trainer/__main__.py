"""paceline-trainer: keeps lessons and revisions."""

from __future__ import annotations

import sys

from paceline.trainer.publishing import keygen, publish
from paceline.trainer.remote import fetch, revisions, withdraw
from paceline.trainer.serve import serve
from paceline.trainer.settings import (
    FetchSettings,
    KeygenSettings,
    PublishSettings,
    RevisionsSettings,
    TrainerSettings,
    WithdrawSettings,
)
from paceline.trainer.version import VERSION
from paceline.wire.settings import Command, run_commands

COMMANDS = {
    "serve": Command("keep lessons and revisions", TrainerSettings, serve),
    "publish": Command("publish a folder as a revision", PublishSettings, publish),
    "fetch": Command("fetch a revision, checking every byte", FetchSettings, fetch),
    "revisions": Command("list revisions", RevisionsSettings, revisions),
    "withdraw": Command("take a revision out of use", WithdrawSettings, withdraw),
    "keygen": Command("make a key to sign revisions with", KeygenSettings, keygen),
}


def main() -> int:
    return run_commands("paceline-trainer", VERSION, COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
