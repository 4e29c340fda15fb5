"""The commands, and the program around them. A new command is a function and a line in the table."""

from __future__ import annotations

from typing import Annotated

import typer

from paceline.cli.bench import bench
from paceline.cli.chat import chat
from paceline.cli.console import console
from paceline.cli.doctor.command import doctor
from paceline.cli.drafter_list import drafters
from paceline.cli.generate import generate
from paceline.cli.revisions import revisions
from paceline.cli.status import status
from paceline.cli.top import top
from paceline.cli.up import up
from paceline.cli.version import VERSION
from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR

app = typer.Typer(
    name="paceline",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 it worked, 1 it failed, 2 it was asked wrongly. NO_COLOR turns colours off.",
)

PANELS = {
    "Use it": (up, chat, generate),
    "Look at it": (status, top, drafters, revisions),
    "Measure and mend": (bench, doctor),
}

for panel, commands in PANELS.items():
    for run in commands:
        passes_on = {"allow_extra_args": True, "ignore_unknown_options": True} if run is bench else None
        app.command(rich_help_panel=panel, add_help_option=run is not bench, context_settings=passes_on)(run)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.print(f"paceline {VERSION} (protocol {PROTOCOL_MAJOR}.{PROTOCOL_MINOR})", highlight=False)
        raise typer.Exit


@app.callback()
def paceline(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Paceline makes a large language model answer faster, and gives the same text, to the bit.

    'paceline up' starts all of it on this machine; 'paceline doctor' says what is missing.
    """
