"""Mixes of drafters as they were given on a command line, checked before anything is started."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mixes import DrafterProcess, Mix, MixError, parse_mixes
from options import in_users_folder
from rounds import BenchError

from paceline.drafter.settings import DrafterSettings
from paceline.wire.settings import load_settings

FOLDERS = ("model", "revision", "datastore")  # options of drafters that may name a folder of the user's


def given_mixes(texts: Sequence[str]) -> list[Mix]:
    """As parsed, with folders where the user means them; a drafter's options are checked as the drafter does.

    Raises BenchError naming --drafters.
    """
    try:
        mixes = [replace(mix, drafters=tuple(map(_located, mix.drafters))) for mix in parse_mixes(texts)]
    except MixError as error:
        raise BenchError(f"--drafters {error}") from None
    for mix in mixes:
        for drafter in mix.drafters:
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    load_settings(DrafterSettings, drafter.arguments, drafter.name)
            except SystemExit:
                raise BenchError(f"--drafters {mix.name!r}: {said.getvalue().strip()}") from None
    return mixes


def given_mix(text: str) -> Mix:
    """One mix, read in the same way."""
    mixes = given_mixes([text])
    if len(mixes) != 1:
        raise BenchError(f"--drafters {text!r} are {len(mixes)} mixes; it must be one, its processes joined by '&'")
    return mixes[0]


def _located(drafter: DrafterProcess) -> DrafterProcess:
    options = [
        (key, str(found.absolute()))
        if key in FOLDERS and value and (found := in_users_folder(Path(value))).exists()
        else (key, value)
        for key, value in drafter.options
    ]
    return replace(drafter, options=tuple(options))
