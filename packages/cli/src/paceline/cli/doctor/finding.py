"""What a check has to say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from paceline.cli.doctor.settings import DoctorSettings


class Level(StrEnum):
    """How much it matters. FAIL: something will not work, or is open to others. WARN: it works, less well than it
    could, or soon no more."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """found: what there is. advice: what to do about it; empty if there is nothing to do."""

    level: Level
    found: str
    advice: str = ""


def ok(found: str) -> Finding:
    return Finding(Level.OK, found)


def warn(found: str, advice: str) -> Finding:
    return Finding(Level.WARN, found, advice)


def fail(found: str, advice: str) -> Finding:
    return Finding(Level.FAIL, found, advice)


Check = Callable[[DoctorSettings], list[Finding]]
"""Gathers facts about what the settings name, and judges them. It changes nothing that lasts."""
