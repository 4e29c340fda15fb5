"""systemd takes the units, and finds them closed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from starts import SERVICES
from units import read_unit

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
MOST_EXPOSED = 20  # tenths: systemd calls up to 20 "OK"; without any of its settings a service has 96
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not on PATH")


def unit_file(service: str) -> Path:
    return ROOT / "packages" / service / f"paceline-{service}.service"


def placed(service: str, folder: Path, tls: bool) -> Path:
    """The unit as it would be installed, with a program to start where this machine has one."""
    program = folder / f"paceline-{service}"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = folder / f"paceline-{service}.service"
    unit.write_text(unit_file(service).read_text().replace(f"/opt/paceline/{service}/bin/", f"{folder}/"))
    if tls:
        dropins = folder / f"{unit.name}.d"
        dropins.mkdir()
        shutil.copyfile(ROOT / "tools/deploy/systemd/tls.conf", dropins / "tls.conf")
    return unit


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, check=False)


@needs_systemd
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("service", SERVICES)
def test_systemd_has_nothing_to_say_against_a_unit(service: str, tls: bool, tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", str(placed(service, tmp_path, tls)))
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_systemd_would_notice_a_mistake(tmp_path: Path) -> None:
    unit = placed("router", tmp_path, tls=False)
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=on-failures"))
    assert "on-failures" in analyze("verify", "--man=no", str(unit)).stderr


@needs_systemd
@pytest.mark.parametrize("service", SERVICES)
def test_a_unit_is_closed(service: str, tmp_path: Path) -> None:
    unit = placed(service, tmp_path, tls=False)
    done = analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", str(unit))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_it_is_nobodys_waits_for_ready_and_comes_back(service: str) -> None:
    unit = read_unit(unit_file(service))
    assert unit.start == [f"/opt/paceline/{service}/bin/paceline-{service}", "serve"]
    expected = {
        "Type": "notify",
        "DynamicUser": "yes",
        "Restart": "on-failure",
        "KillSignal": "SIGTERM",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "CapabilityBoundingSet": "",
        "EnvironmentFile": f"-/etc/paceline/{service}.env",
        "LoadCredential": "paceline_token",
    }
    assert {name: unit.one(name) for name in expected} == expected


@pytest.mark.parametrize("service", SERVICES)
def test_what_it_writes_is_in_folders_of_its_own(service: str) -> None:
    unit = read_unit(unit_file(service))
    own = tuple(f"{folder}/paceline-{service}" for folder in ("/var/lib", "/var/cache"))
    assert (unit.one("StateDirectory"), unit.one("CacheDirectory")) == (f"paceline-{service}",) * 2
    folders = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "PACELINE_DATA", "PACELINE_REVISION_CACHE")
    assert all(unit.variables[name].startswith(own) for name in folders if name in unit.variables)


def test_the_drop_in_for_tls_hands_over_what_it_loads() -> None:
    dropin = read_unit(ROOT / "tools/deploy/systemd/tls.conf")
    loaded = {line.partition(":")[0] for line in dropin.all("LoadCredential")}
    assert {value.rpartition("/")[2] for value in dropin.variables.values()} == loaded
