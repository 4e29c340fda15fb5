"""Programs that documentation names, and the flags that each really has: asked of the programs, never written down.

To add a program: one entry in `PROGRAMS`: what people type, or the target that `bazelw run` takes, and what makes its
commands.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import typer
from pydantic_settings import BaseSettings, CliSettingsSource

SERVICES = ("router", "verifier", "drafter", "trainer")
ALONE = ""  # the command of a program without subcommands
EVERYWHERE = frozenset({"--help", "-h"})


@dataclass(frozen=True)
class Known:
    """One command of a program.

    Attributes:
        summary: what the program's usage says of it.
        flags: all that it takes, each spelling.
        settings: the class that its flags, variables and keys come from; None for programs with flags only.
        passes_on: it hands flags that it doesn't know to another program, so any may be right.
    """

    summary: str
    flags: frozenset[str]
    settings: type[BaseSettings] | None = None
    passes_on: bool = False

    @property
    def variables(self) -> frozenset[str]:
        """Environment variables that it reads."""
        return variables_of(self.settings) if self.settings else frozenset()


Commands = Mapping[str, Known]


def flags_by_field(settings: type[BaseSettings]) -> dict[str, list[str]]:
    """Of each field, the flags that the command line has for it; none for a positional argument."""
    source: Any = CliSettingsSource(
        settings, cli_parse_args=None, cli_kebab_case=True, cli_implicit_flags=True, cli_hide_none_type=True
    )
    flags = {action.dest: list(action.option_strings) for action in source.root_parser._actions}
    return {name: flags[_spelt(settings, name)] for name in settings.model_fields}


def variables_of(settings: type[BaseSettings]) -> frozenset[str]:
    """Environment variables of a class of settings, by its prefix."""
    return frozenset(name for name in (variable_of(settings, field) for field in settings.model_fields) if name)


def variable_of(settings: type[BaseSettings], field: str) -> str:
    """The environment variable of a field; empty for one that people set by its flag only."""
    if _spelt(settings, field) != field:
        return ""
    return (settings.model_config.get("env_prefix", "") + field).upper()


def _spelt(settings: type[BaseSettings], field: str) -> str:
    """By which name the command line knows a field."""
    info = settings.model_fields[field]
    return str(info.validation_alias or info.alias or field)


def _of_settings(module: str) -> Commands:
    """Of a console script that is a table of `paceline.wire.settings.Command`."""
    commands = importlib.import_module(module).COMMANDS
    return {
        name: Known(
            command.summary,
            frozenset(flag for flags in flags_by_field(command.settings).values() for flag in flags)
            | EVERYWHERE
            | {"--config"},
            command.settings,
        )
        for name, command in commands.items()
    }


def of_typer(app: typer.Typer) -> Commands:
    """Of a typer application, with subcommands or without."""
    found: Any = typer.main.get_command(app)
    if not hasattr(found, "commands"):
        return {ALONE: _of_click(found)}
    return {name: _of_click(one) for name, one in found.commands.items()}


def _of_click(command: Any) -> Known:
    spelt = [flag for one in command.params for flag in (*one.opts, *one.secondary_opts) if flag.startswith("-")]
    passes_on = bool(command.context_settings.get("ignore_unknown_options"))
    return Known(command.help or "", frozenset(spelt) | EVERYWHERE, passes_on=passes_on)


def _of_function(module: str) -> Commands:
    """Of a tool that is one annotated function, `main`."""
    app = typer.Typer()
    app.command()(importlib.import_module(module).main)
    return of_typer(app)


def _of_cli() -> Commands:
    """Of the `paceline` command; `bench` passes everything on to the suite."""
    commands = of_typer(importlib.import_module("paceline.cli.app").app)
    return {**commands, "bench": _of_function("bench_suite")[ALONE]}


def _of_alias(name: str) -> Commands:
    """Of `//:up` and `//:chat`, which are commands of `paceline`."""
    return {ALONE: commands_of("paceline")[name]}


def _of_health() -> Commands:
    """Of `paceline-health`, which every service's environment has."""
    settings = importlib.import_module("paceline.wire.health").HealthSettings
    flags = {flag for flags in flags_by_field(settings).values() for flag in flags}
    return {ALONE: Known("", frozenset(flags) | EVERYWHERE | {"--config"}, settings)}


BENCHMARKS = ("acceptance", "adaptation", "choosing", "losses", "routing", "speed")
PROGRAMS: dict[str, Callable[[], Commands]] = {
    **{f"paceline-{name}": partial(_of_settings, f"paceline.{name}.__main__") for name in SERVICES},
    "paceline": _of_cli,
    "paceline-health": _of_health,
    "//:demo": partial(_of_function, "demo"),
    "//:paceline": _of_cli,
    **{f"//:{name}": partial(_of_alias, name) for name in ("chat", "up")},
    **{f"//tools/bench:{name}": partial(_of_function, name) for name in BENCHMARKS},
    "//tools/bench:suite": partial(_of_function, "bench_suite"),
    "//tools/e2e:killing": partial(_of_function, "killing"),
    "//tools/docs:generate": partial(_of_function, "generate"),
}


@cache
def commands_of(program: str) -> Commands:
    """The commands of one of PROGRAMS."""
    return PROGRAMS[program]()
