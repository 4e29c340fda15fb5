"""GPUs, and whether the torch that is installed can use them."""

from __future__ import annotations

import shutil
import subprocess
from importlib import metadata

from paceline.cli.doctor.finding import Finding, ok, warn
from paceline.cli.doctor.settings import DoctorSettings

TIMEOUT_S = 10.0
_QUERY = ("--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")


def check(_settings: DoctorSettings) -> list[Finding]:
    gpus, trouble = ask_driver()
    try:
        torch = metadata.version("torch")
    except metadata.PackageNotFoundError:
        torch = ""
    return [judge(gpus, trouble, torch)]


def ask_driver() -> tuple[list[str], str]:
    """Each GPU in words, or what is wrong. Nothing of both if there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], ""
    try:
        done = subprocess.run([program, *_QUERY], capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [], f"nvidia-smi can't be run: {error}"
    if done.returncode != 0:
        return [], " ".join((done.stdout + done.stderr).split())[:200]
    return parse(done.stdout), ""


def parse(text: str) -> list[str]:
    """Lines of nvidia-smi, in words."""
    gpus = []
    for line in text.splitlines():
        name, _, rest = line.partition(",")
        memory, _, driver = rest.partition(",")
        if memory.strip().isdecimal():
            gpus.append(f"{name.strip()}, {int(memory) / 1024:.0f} GiB, driver {driver.strip()}")
    return gpus


def judge(gpus: list[str], trouble: str, torch: str) -> Finding:
    """torch: its version, empty if it isn't installed."""
    if trouble:
        return warn(
            f"the NVIDIA driver is there and doesn't work: {trouble}", "mend the driver; until then: --device cpu"
        )
    if not gpus:
        return ok("none; the model runs on the processor")
    shown = "; ".join(gpus)
    if torch.endswith("+cpu"):
        return warn(f"{shown}, but torch {torch} is a CPU build", "install a CUDA build of torch to use it")
    return ok(shown + (f", torch {torch}" if torch else "; torch is not installed here"))
