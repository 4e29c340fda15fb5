"""systemd's units, read as far as tests need. Whether they are right, systemd-analyze says."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

SPECIFIERS = {"%S": "/var/lib", "%C": "/var/cache", "%d": "/run/credentials"}


@dataclass(frozen=True)
class Unit:
    """The settings of its section [Service], in order; a name may come several times."""

    path: Path
    settings: tuple[tuple[str, str], ...]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.settings if key == name]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    @property
    def start(self) -> list[str]:
        return shlex.split(self.one("ExecStart"))

    @property
    def variables(self) -> dict[str, str]:
        """Environment=, with specifiers replaced."""
        pairs = [pair for line in self.all("Environment") for pair in shlex.split(line)]
        return {name: _expanded(value) for name, _, value in (pair.partition("=") for pair in pairs)}


def _expanded(value: str) -> str:
    for specifier, folder in SPECIFIERS.items():
        value = value.replace(specifier, folder)
    return value


def read_unit(path: Path) -> Unit:
    section, settings = "", []
    for raw in path.read_text().splitlines():
        line = raw.strip()
        if line.startswith("["):
            section = line
        elif line and not line.startswith("#") and section == "[Service]":
            name, _, value = line.partition("=")
            settings.append((name.strip(), value.strip()))
    return Unit(path, tuple(settings))
