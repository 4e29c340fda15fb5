"""The command `bench`: measures a deployment on this machine and writes a report. The measuring is a checkout's."""

from __future__ import annotations

import typer

from paceline.cli.command import CommandError, command
from paceline.cli.installed import has_module

SUITE = "bench_suite"


@command
def bench(context: typer.Context) -> None:
    """Measure speculation on this machine and write a report with figures and plots (in a checkout).

    All options go to the benchmark: 'paceline bench --help' lists them.
    """
    if not has_module(SUITE):
        raise CommandError(
            "it is part of a checkout and of no wheel; run it there: ./bazelw run //:paceline -- bench --help"
        )
    from bench_suite import main as suite  # type: ignore[import-not-found, unused-ignore]

    program = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    program.command()(suite)
    program(context.args, prog_name="paceline bench")
