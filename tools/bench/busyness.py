"""How much of the processors other programs had while something was measured: what makes times worthless unseen."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

IDLE = (3, 4)  # columns of /proc/stat: idle, and waiting for a disk
GUEST = 8  # this column and those after it are counted in the first two already


@dataclass(frozen=True, slots=True)
class Reading:
    """At one moment. `busy_s` is None where the system doesn't say."""

    at_s: float
    busy_s: float | None
    own_s: float


def read_now() -> Reading:
    """Of the processors that this process may run on. Children count as own as soon as they were waited for."""
    try:
        stat = Path("/proc/stat").read_text()
        busy_s = busy_seconds(stat, os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK"))
    except (OSError, AttributeError, ValueError):
        busy_s = None
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Reading(time.monotonic(), busy_s, sum(usage.ru_utime + usage.ru_stime for usage in spent))


def busy_seconds(stat: str, processors: Collection[int], ticks: int) -> float:
    """Seconds that these processors were not idle since they started, by the text of /proc/stat: in programs, in the
    kernel, and taken by the host of a virtual machine. ValueError if it has no such lines."""
    total = found = 0
    for line in stat.splitlines():
        name, *columns = line.split()
        if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in processors:
            spent = [int(column) for column in columns[:GUEST]]
            total += sum(spent) - sum(spent[at] for at in IDLE if at < len(spent))
            found += 1
    if not found:
        raise ValueError("no line of these processors")
    return total / ticks


def used_by_others(before: Reading, after: Reading) -> float | None:
    """Processors that other programs kept busy in the mean, such as 1.3 of 2; None where the system doesn't say."""
    elapsed_s = after.at_s - before.at_s
    if before.busy_s is None or after.busy_s is None or elapsed_s <= 0.0:
        return None
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return round(max(0.0, others_s) / elapsed_s, 2)
