"""The checks, in the order in which they are told. A new one is a file and a line here."""

from __future__ import annotations

from paceline.cli.doctor import (
    certificates,
    clock,
    compiler,
    gpu,
    memory,
    model,
    ports,
    processor,
    python_version,
    reachable,
    redis_server,
    state_folder,
    tokens,
    wheels,
)
from paceline.cli.doctor.finding import Check, Finding, Level
from paceline.cli.doctor.settings import DoctorSettings

CHECKS: dict[str, Check] = {
    "python": python_version.check,
    "wheels": wheels.check,
    "processor": processor.check,
    "memory": memory.check,
    "gpu": gpu.check,
    "compiler": compiler.check,
    "model": model.check,
    "state folder": state_folder.check,
    "ports": ports.check,
    "deployment": reachable.check,
    "redis": redis_server.check,
    "tokens": tokens.check,
    "certificates": certificates.check,
    "clock": clock.check,
}


def examine(name: str, settings: DoctorSettings) -> list[Finding]:
    """One check. What it can't cope with is a finding, too: the others go on."""
    try:
        return CHECKS[name](settings)
    except Exception as error:  # whatever a strange machine comes up with
        words = " ".join(str(error).split())[:200]
        return [Finding(Level.WARN, f"couldn't be looked at: {type(error).__name__}: {words}", "please report this")]
