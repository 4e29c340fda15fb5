"""What a suite of measurements came to: its parts, each with its record and its figures. Values only.

A part is *done*, *failed* (it ended with an error; what it measured before is kept) or *not run*.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field
from result_base import Count, Known, Name, Number, Result, Words
from suite_results import PARTS

State = Literal["done", "failed", "not run"]
COMPARED = ("processor", "cores", "memory_gib", "flags")  # of a machine; its kernel may change


class Record(Known):
    """How a part was run, as it is kept beside its figures.

    Attributes:
        command: as typed, without the interpreter.
        exit_code: None if it was ended from outside.
        error: the last words of one that failed.
        others: processors that other programs kept busy meanwhile; None if unknown.
    """

    part: Name
    command: list[Words] = Field(default_factory=list)
    started: Name = ""
    ended: Name = ""
    exit_code: int | None = None
    error: Words = ""
    others: Number | None = None
    cores: Count | None = None


class Asked(Known):
    """What was asked for as a whole, as it is kept beside the parts."""

    command: Words = ""
    notes: list[Words] = Field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """One part. `content` is its file as it is, `result` what a report reads of it."""

    name: str
    state: State
    why: str = ""  # of one that failed or was not run
    record: Record | None = None
    result: Result | None = None
    content: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Suite:
    """All of it."""

    parts: Sequence[PartOutcome]
    command: str = ""
    notes: Sequence[str] = field(default_factory=tuple)  # of what was left out on purpose, such as by --quick

    def result(self, name: str) -> Result | None:
        return next((part.result for part in self.parts if part.name == name), None)

    @property
    def results(self) -> list[Result]:
        return [part.result for part in self.parts if part.result is not None]

    @property
    def machines(self) -> list[dict[str, Any]]:
        """Those that differ; more than one means that the parts were measured apart."""
        found = {machine_id(machine): machine for machine in (result.machine.model_dump() for result in self.results)}
        return list(found.values())

    @property
    def versions(self) -> dict[str, list[str]]:
        """By name; several where the parts differ."""
        found: dict[str, list[str]] = {}
        for result in self.results:
            for name, version in result.versions.items():
                if version not in found.setdefault(name, []):
                    found[name].append(version)
        return dict(sorted(found.items()))

    @property
    def started(self) -> str:
        return min(filter(None, map(started_of, self.parts)), default="")

    @property
    def ended(self) -> str:
        return max(filter(None, map(ended_of, self.parts)), default="")

    @property
    def failed(self) -> bool:
        return any(part.state == "failed" for part in self.parts)


def machine_id(machine: Mapping[str, Any]) -> str:
    """The same for the same processor, cores, memory and flags."""
    known = json.dumps([machine.get(name) for name in COMPARED])
    return hashlib.sha256(known.encode()).hexdigest()[:16]


def started_of(part: PartOutcome) -> str:
    return (part.record.started if part.record else "") or (part.result.started if part.result else "")


def ended_of(part: PartOutcome) -> str:
    return (part.record.ended if part.record else "") or (part.result.ended if part.result else "")


def command_of(part: PartOutcome) -> str:
    """As typed, if it is known."""
    if part.record and part.record.command:
        return " ".join(part.record.command)
    return part.result.command if part.result else ""


def in_order(parts: Sequence[PartOutcome]) -> list[PartOutcome]:
    return sorted(parts, key=lambda part: PARTS.index(part.name))
