"""docs/settings.md: every setting of every service and command, made of the settings' own classes."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import Any

import annotated_types
from programs import SERVICES, Known, commands_of, flags_by_field, variable_of
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from paceline.wire.settings import ClientSettings, ServiceSettings

HEAD = """# Settings

<!-- Made by tools/docs/generate.py of the settings' classes; don't edit. -->

A setting has one name in three places: `--max-sessions 4` on the command line, `PACELINE_MAX_SESSIONS=4` in the
environment, `max_sessions: 4` in the YAML file that `--config FILE` or `PACELINE_CONFIG` names. The command line wins
over the environment, the environment over the file. An unknown flag or key, or a value out of bounds, ends the command
with exit code 2 and a line for each problem. `--help` of each command says the same as this page.

A variable is read by every Paceline process that sees it. Set those that differ between services (`PACELINE_LISTEN`,
`PACELINE_MODEL`, `PACELINE_ROUTER`) for one process each, never for a whole machine.

What is on or off has two flags, such as `--ahead` and `--no-ahead`. What has no variable is for the command line.
"""
SHARED: tuple[tuple[str, type[BaseSettings], str], ...] = (
    ("Of everything that dials", ClientSettings, "All commands below have these, unless they say otherwise."),
    ("Of every service", ServiceSettings, "Every `serve` has these besides."),
)


def settings_reference() -> str:
    """The page. The same for the same classes."""
    parts = [HEAD]
    for title, settings, about in SHARED:
        parts.append(f"## {title}\n\n{settings.__doc__} {about}\n\n{_table(settings, _own(settings))}")
    for program in (f"paceline-{name}" for name in SERVICES):
        parts.extend(_section(program, name, command) for name, command in commands_of(program).items())
    return "\n".join(parts)


def _section(program: str, name: str, command: Known) -> str:
    settings = command.settings
    assert settings is not None
    own = _own(settings)
    about = inspect.cleandoc(settings.__doc__ or f"{command.summary[0].upper()}{command.summary[1:]}.")
    shared = [title.lower() for title, base, _ in SHARED if issubclass(settings, base)]
    besides = f"Besides the settings {' and '.join(shared)}" if shared else "None of the shared settings"
    table = _table(settings, own) if own else "No others.\n"
    return f"## `{program} {name}`\n\n{_line(about)}\n\n{besides}:\n\n{table}"


def _own(settings: type[BaseSettings]) -> list[str]:
    """Fields that aren't those of a shared class, or differ from them."""
    shared = [base for _, base, _ in SHARED if issubclass(settings, base) and base is not settings]
    return [
        name
        for name, info in settings.model_fields.items()
        if not any(name in base.model_fields and _same(base.model_fields[name], info) for base in shared)
    ]


def _same(one: FieldInfo, other: FieldInfo) -> bool:
    return (one.default, one.description) == (other.default, other.description)


def _table(settings: type[BaseSettings], fields: Iterable[str]) -> str:
    flags = flags_by_field(settings)
    rows = ["| setting | variable | default | meaning |", "|---|---|---|---|"]
    for name in fields:
        info = settings.model_fields[name]
        spelt = ", ".join(f"`{flag}`" for flag in flags[name] if not flag.startswith("--no-")) or f"`{name.upper()}`"
        variable = variable_of(settings, name) if flags[name] else ""
        meaning = " ".join(filter(None, (_line(info.description or ""), _bounds(info))))
        cells = (spelt, f"`{variable}`" if variable else "", _default(info), meaning.replace("|", "\\|"))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _line(text: str) -> str:
    return " ".join(text.split())


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    value: Any = info.get_default(call_default_factory=True)
    if value is None or value in ("", {}):
        return "unset" if value is None else "empty"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Enum):
        value = value.value
    return f"`{value.as_posix() if isinstance(value, Path) else value}`"


def _bounds(info: FieldInfo) -> str:
    """At least, at most: what pydantic checks of a number."""
    said = []
    for rule in info.metadata:
        if isinstance(rule, annotated_types.Ge) and rule.ge != 0:
            said.append(f"at least {_number(rule.ge)}")
        elif isinstance(rule, annotated_types.Gt):
            said.append(f"more than {_number(rule.gt)}")
        elif isinstance(rule, annotated_types.Le):
            said.append(f"at most {_number(rule.le)}")
        elif isinstance(rule, annotated_types.Lt):
            said.append(f"less than {_number(rule.lt)}")
    return f"({', '.join(said)})" if said else ""


def _number(value: Any) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:g}"
