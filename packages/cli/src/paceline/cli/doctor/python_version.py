"""The Python that runs this."""

from __future__ import annotations

import platform
import struct
import sys

from paceline.cli.doctor.finding import Finding, fail, ok
from paceline.cli.doctor.settings import DoctorSettings

LEAST = (3, 11)


def check(_settings: DoctorSettings) -> list[Finding]:
    return [judge(sys.version_info[:3], 8 * struct.calcsize("P"), platform.python_implementation(), sys.executable)]


def judge(version: tuple[int, ...], bits: int, implementation: str, program: str) -> Finding:
    shown = f"{implementation} {'.'.join(map(str, version))} at {program}"
    if version[:2] < LEAST:
        return fail(shown, f"install Python {'.'.join(map(str, LEAST))} or later, and Paceline into it")
    if bits < 64:
        return fail(f"{shown}, {bits} bits", "install a Python of 64 bits: torch has no other")
    return ok(shown)
