"""The C++ compiler, which the verifier needs once, to make its decoder for this processor."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from paceline.cli.doctor.finding import Finding, ok, warn
from paceline.cli.doctor.settings import DoctorSettings

FLAGS = ("-O1", "-std=c++17", "-march=native", "-fPIC", "-shared", "-pthread")  # those that a compiler may not know
SOURCE = '#include <thread>\n#include <vector>\nextern "C" int f(int n) { return int(std::vector<int>(n).size()); }\n'
TIMEOUT_S = 60.0
_WITHOUT = "else the verifier takes its transformers engine, which is slower"


def check(_settings: DoctorSettings) -> list[Finding]:
    if platform.system() != "Linux":
        return [judge_system(platform.system())]
    program = find(os.environ.get("CXX", ""))
    return [judge(program, "" if program is None else trial(program), os.environ.get("CXX", ""))]


def find(preferred: str) -> str | None:
    """As the verifier looks: $CXX, g++, clang++."""
    return next((found for name in (preferred, "g++", "clang++") if name and (found := shutil.which(name))), None)


def trial(program: str) -> str:
    """Compiles a few lines; what the compiler says if it can't."""
    with tempfile.TemporaryDirectory(prefix="paceline-doctor-") as folder:
        source = Path(folder) / "trial.cpp"
        source.write_text(SOURCE)
        command = [program, *FLAGS, str(source), "-o", str(source.with_suffix(".so"))]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            return str(error)
    return "" if done.returncode == 0 else " ".join(done.stderr.split())[:200] or f"exit code {done.returncode}"


def judge_system(system: str) -> Finding:
    return warn(f"{system}: the native decoder needs Linux", "nothing; the verifier takes its transformers engine")


def judge(program: str | None, trouble: str, preferred: str) -> Finding:
    """trouble: what it said when it was tried. preferred: $CXX."""
    if program is None:
        return warn("none", f"install one (Debian: apt-get install g++) or set CXX; {_WITHOUT}")
    if trouble:
        return warn(f"{program} does not work: {trouble}", f"mend it, or set CXX to another; {_WITHOUT}")
    if preferred and not shutil.which(preferred):
        return warn(f"CXX is {preferred}, which isn't there; {program} is taken", "unset CXX, or correct it")
    return ok(f"{program} compiles for this processor")
