"""The command `doctor`: looks at everything, and says what to do."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from paceline.cli.command import AsJson, UsageError, command
from paceline.cli.console import console, print_json, waiting
from paceline.cli.doctor.checks import CHECKS, examine
from paceline.cli.doctor.finding import Finding, Level
from paceline.cli.doctor.settings import DoctorSettings

STYLES = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "bold red"}


@command
def doctor(
    settings: DoctorSettings,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only this check, by its name; may be repeated.", autocompletion=lambda: list(CHECKS)),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at this machine and at the deployment, and say what is wrong and what to do about it.

    Looks at Python, wheels, processor, memory, GPU, compiler, model, state folder, ports, router and verifiers, Redis,
    tokens, certificates and clock, and changes nothing. Exit code 1: something is to be mended; warnings are none.
    """
    names = only or list(CHECKS)
    for name in names:
        if name not in CHECKS:
            raise UsageError(f"--only {name}: must be one of {', '.join(CHECKS)}")
    found: list[tuple[str, Finding]] = []
    with waiting("") as tell:
        for name in names:
            tell(name)
            found += [(name, finding) for finding in examine(name, settings)]
    failed = any(finding.level is Level.FAIL for _, finding in found)
    if as_json:
        findings = [{"check": name, **asdict(finding)} for name, finding in found]
        print_json({"ok": not failed, "findings": findings})
    else:
        _print(found)
    if failed:
        raise typer.Exit(1)


def _print(found: list[tuple[str, Finding]]) -> None:
    table = Table.grid(padding=(0, 2))
    before = ""
    for name, finding in found:
        what = Text(finding.found)
        if finding.advice:
            what.append(f"\n→ {finding.advice}", style=STYLES[finding.level])
        shown = "" if name == before else name
        table.add_row(Text(finding.level.upper(), style=STYLES[finding.level]), Text(shown, style="bold"), what)
        before = name
    console.print(table)
    counts = {level: sum(finding.level is level for _, finding in found) for level in Level}
    told = [f"{counts[Level.FAIL]} to mend" if counts[Level.FAIL] else "", _warnings(counts[Level.WARN])]
    console.print()
    console.print("; ".join(filter(None, told)) or "Everything is fine.", highlight=False)


def _warnings(count: int) -> str:
    return "" if not count else "1 warning" if count == 1 else f"{count} warnings"
