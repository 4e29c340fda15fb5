"""The clock: certificates and tokens expire by it."""

from __future__ import annotations

import shutil
import subprocess
import time
from datetime import UTC, datetime

from paceline.cli.doctor.finding import Finding, fail, ok, warn
from paceline.cli.doctor.settings import DoctorSettings

EARLIEST = datetime(2025, 1, 1, tzinfo=UTC)  # before there was Paceline
LATEST = datetime(2100, 1, 1, tzinfo=UTC)
TIMEOUT_S = 5.0
_ADVICE = "set the clock, e.g. with 'timedatectl set-ntp true'"


def check(_settings: DoctorSettings) -> list[Finding]:
    return [judge(time.time(), synchronised())]


def synchronised() -> bool | None:
    """Whether systemd says that the clock follows a time server; None if it says nothing."""
    program = shutil.which("timedatectl")
    if program is None:
        return None
    command = [program, "show", "--property=NTPSynchronized", "--value"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return {"yes": True, "no": False}.get(done.stdout.strip())


def judge(now_s: float, follows: bool | None) -> Finding:
    if not EARLIEST.timestamp() <= now_s < LATEST.timestamp():
        return fail(f"{_shown(now_s)}: that can't be", f"{_ADVICE}; certificates and tokens would count as expired")
    if follows is False:
        return warn(f"{_shown(now_s)}, and it follows no time server", _ADVICE)
    return ok(_shown(now_s) + (", follows a time server" if follows else ""))


def _shown(now_s: float) -> str:
    try:
        return datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{now_s:.0f} s since 1970"
