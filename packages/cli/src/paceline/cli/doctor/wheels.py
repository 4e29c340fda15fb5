"""The wheels that are installed: whether they agree with one another, and with what they require."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import InvalidRequirement, Requirement

from paceline.cli.doctor.finding import Finding, fail, ok
from paceline.cli.doctor.settings import DoctorSettings
from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR, VERSION

OURS = ("paceline", "paceline-protos", "paceline-router", "paceline-verifier", "paceline-drafter", "paceline-trainer")


@dataclass(frozen=True, slots=True)
class Wheel:
    """An installed distribution, and its Requires-Dist lines."""

    name: str
    version: str
    requires: tuple[str, ...]


def check(_settings: DoctorSettings) -> list[Finding]:
    wheels = [wheel for name in OURS if (wheel := _installed(name)) is not None]
    versions = {_normalized(found.name): found.version for found in metadata.distributions() if found.name}
    return judge(wheels, versions)


def _installed(name: str) -> Wheel | None:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    return Wheel(name, found.version, tuple(found.requires or ()))


def judge(wheels: list[Wheel], versions: dict[str, str]) -> list[Finding]:
    """versions: of everything that is installed, by normalized name."""
    protocol = f"protocol {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"
    if not wheels:
        return [ok(f"a checkout, not wheels: paceline-protos {VERSION}, {protocol}")]
    findings = [
        fail(
            f"{wheel.name} {wheel.version} requires {requirement.name}{requirement.specifier}, and {there} is there",
            f"pip install --upgrade {' '.join(one.name for one in wheels)}",
        )
        for wheel in wheels
        for requirement, there in unmet(wheel, versions)
    ]
    return findings or [ok(f"{', '.join(f'{wheel.name} {wheel.version}' for wheel in wheels)}; {protocol}")]


def unmet(wheel: Wheel, versions: dict[str, str]) -> list[tuple[Requirement, str]]:
    """What it requires without any extra and has not: with the version that is there instead, or "nothing"."""
    found = []
    for line in wheel.requires:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # it was installed; whoever wrote the line knows
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        there = versions.get(_normalized(requirement.name))
        if there is None or not requirement.specifier.contains(there, prereleases=True):
            found.append((requirement, there or "nothing"))
    return found


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
