"""Memory that is free, as far as this process may have it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from paceline.cli.doctor.finding import Finding, fail, ok, warn
from paceline.cli.doctor.settings import DoctorSettings

GIB, MIB = 1 << 30, 1 << 20
LEAST, COMFORTABLE = GIB // 2, 2 * GIB  # router, trainer and drafters take some 100 MB each
_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


@dataclass(frozen=True, slots=True)
class Memory:
    """In bytes. available: without swapping, and within the container's limit."""

    total: int
    available: int


def check(_settings: DoctorSettings) -> list[Finding]:
    return [judge(look())]


def look() -> Memory | None:
    """None if this system doesn't tell."""
    try:
        known = parse_meminfo(Path("/proc/meminfo").read_text())
    except OSError:
        return None
    limit = _limit()
    if known is None or limit is None:
        return known
    return Memory(min(known.total, limit.total), min(known.available, limit.available))


def parse_meminfo(text: str) -> Memory | None:
    values = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
    if "MemTotal" not in values or "MemAvailable" not in values:
        return None
    return Memory(values["MemTotal"], values["MemAvailable"])


def _limit() -> Memory | None:
    """Of the container, if it has one. Its page cache counts as used, so this errs on the safe side."""
    for most, used in _LIMITS:
        try:
            total, taken = int(most.read_text()), int(used.read_text())
        except (OSError, ValueError):  # "max" is no number
            continue
        return Memory(total, max(0, total - taken))
    return None


def shown(count: int) -> str:
    """Bytes for people."""
    return f"{count / GIB:.1f} GiB" if count >= GIB // 2 else f"{count / MIB:.0f} MiB"


def judge(memory: Memory | None) -> Finding:
    if memory is None:
        return warn("this system doesn't tell how much memory is free", "see that the model fits twice over")
    free = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    if memory.available < LEAST:
        return fail(free, "end other programs: the services alone take half a GiB, without the model")
    if memory.available < COMFORTABLE:
        return warn(free, "enough for small models; end other programs, or take a machine with more")
    return ok(free)
