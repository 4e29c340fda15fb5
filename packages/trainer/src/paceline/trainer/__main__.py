"""paceline-trainer: keeps lessons and revisions, and makes drafters."""

from __future__ import annotations

import sys

from paceline.trainer.online.settings import RefitSettings
from paceline.trainer.publishing import keygen, publish
from paceline.trainer.recipes.command import bootstrap, frame, invent
from paceline.trainer.recipes.settings import BootstrapSettings, FrameSettings, InventSettings
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
from paceline.wire.settings import Command, StartupError, run_commands


def refit(settings: RefitSettings) -> int:
    """Refits; torch is loaded by those who do."""
    try:
        from paceline.trainer.online.command import refit
    except ModuleNotFoundError as error:
        raise StartupError(f"refit needs {error.name}: pip install 'paceline-trainer[train]'") from error
    return refit(settings)


COMMANDS = {
    "serve": Command("keep lessons and revisions", TrainerSettings, serve),
    "bootstrap": Command("make a drafter from a target and prompts", BootstrapSettings, bootstrap),
    "frame": Command("put prompts together from texts and requests about them", FrameSettings, frame),
    "invent": Command("have a target make up prompts", InventSettings, invent),
    "publish": Command("publish a folder as a revision", PublishSettings, publish),
    "fetch": Command("fetch a revision, checking every byte", FetchSettings, fetch),
    "revisions": Command("list revisions", RevisionsSettings, revisions),
    "withdraw": Command("take a revision out of use", WithdrawSettings, withdraw),
    "refit": Command("keep a line of revisions good", RefitSettings, refit),
    "keygen": Command("make a key to sign revisions with", KeygenSettings, keygen),
}


def main() -> int:
    return run_commands("paceline-trainer", VERSION, COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
