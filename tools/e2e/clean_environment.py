"""Environments as a user's: wheels, what they say they require, and nothing else.

A third-party distribution isn't installed again but linked from the environment that runs this, so making one takes a
second. What no wheel declares is not there, and importing it fails as it would at the user's.
"""

from __future__ import annotations

import configparser
import os
import re
import stat
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from email.parser import Parser
from importlib import metadata
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement

SCRIPT = """#!{python}
import sys
from {module} import {function}
sys.exit({function}())
"""


class UnmetRequirementError(Exception):
    """A requirement that neither the wheels nor this environment fulfil; the message says who asks for it."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and the variables to run its programs with: nothing of the caller's PYTHONPATH."""

    folder: Path
    distributions: tuple[str, ...]

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def variables(self) -> dict[str, str]:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        return {"HOME": str(home), "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}


def make_environment(folder: Path, wheels: Iterable[Path], extras: Iterable[str] = ()) -> Environment:
    """Installs `wheels` into a new environment in `folder`, and links the closure of what they require.

    extras: of the wheels, as in `pip install 'wheel[extra]'`.

    Raises UnmetRequirementError if something required is missing here or has another version.
    """
    wheels = list(wheels)
    venv.create(folder, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    for wheel in wheels:
        _install(wheel, site, folder / "bin")
    requirements = [requirement for wheel in wheels for requirement in requires(wheel)]
    linked = closure(requirements, {name_of(wheel) for wheel in wheels}, extras)
    owners = _owners()
    for distribution in linked.values():
        _link(distribution, site, owners)
    return Environment(folder, tuple(sorted(linked)))


def name_of(wheel: Path) -> str:
    """The distribution in a wheel, normalized."""
    return _normalized(wheel.name.partition("-")[0])


def requires(wheel: Path) -> list[str]:
    """A wheel's own Requires-Dist lines."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])


def closure(
    requirements: Iterable[str], provided: set[str], extras: Iterable[str] = ()
) -> dict[str, metadata.Distribution]:
    """All that `requirements` with `extras` come to, by normalized name; `provided` ones are there already."""
    found: dict[str, metadata.Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), extra, "the wheel") for text in requirements for extra in ("", *extras)]
    while waiting:
        requirement, extra, asker = waiting.pop()
        name = _normalized(requirement.name)
        if name in provided or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        found[name] = distribution = _distribution(requirement, asker)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(Requirement(text), wanted, name) for text in distribution.requires or []]
    return found


def _distribution(requirement: Requirement, asker: str) -> metadata.Distribution:
    try:
        distribution = metadata.distribution(requirement.name)
    except metadata.PackageNotFoundError:
        raise UnmetRequirementError(f"{asker} requires {requirement}, which is not installed here") from None
    if not requirement.specifier.contains(distribution.version, prereleases=True):
        raise UnmetRequirementError(f"{asker} requires {requirement}, but {distribution.version} is installed here")
    return distribution


def _install(wheel: Path, site: Path, scripts: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        points = next((name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")), None)
    parser = configparser.ConfigParser(delimiters=("=",))
    if points:
        parser.read(site / points)
    for script in parser["console_scripts"] if parser.has_section("console_scripts") else ():
        module, _, function = parser["console_scripts"][script].partition(":")
        path = scripts / script
        path.write_text(SCRIPT.format(python=scripts / "python", module=module, function=function))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _owners() -> dict[str, int]:
    """How many distributions have files under each top-level name; `google` is shared by several."""
    counts: dict[str, int] = {}
    for distribution in metadata.distributions():
        for top in {path.parts[0] for path in distribution.files or ()}:
            counts[top] = counts.get(top, 0) + 1
    return counts


def _link(distribution: metadata.Distribution, site: Path, owners: dict[str, int]) -> None:
    """Links whole folders that are the distribution's alone, and the single files of those that it shares."""
    for path in distribution.files or ():
        top = path.parts[0]
        if top == ".." or "__pycache__" in path.parts:
            continue
        name = PurePosixPath(top) if owners[top] == 1 else path
        target = site / name
        if not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(Path(str(distribution.locate_file(name))).absolute())


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if sys.prefix == sys.base_prefix:
    raise ImportError("clean_environment links from a virtual environment, but this Python is in none")
