"""Where figures come from: the command that was given, and when."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


def now() -> str:
    """UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Origin:
    """Of one run of a tool, noted when it begins."""

    command: str
    started: str

    def facts(self) -> dict[str, Any]:
        """For the file of figures; the run ends now."""
        return {"command": self.command, "started": self.started, "ended": now()}


def begin(tool: str) -> Origin:
    return Origin(shlex.join([tool, *sys.argv[1:]]), now())
