"""Commands as a shell would run them, in this process."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner, Result

from paceline.cli.app import app


def run(*arguments: str, **fields: Any) -> Result:
    """env: beside the test's own. input: standard input."""
    return CliRunner().invoke(app, list(arguments), prog_name="paceline", **fields)


def run_apart(*arguments: str, input: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own, for what is settled when it starts: colours."""
    return subprocess.run(
        [sys.executable, "-m", "paceline.cli", *arguments],
        input=input,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=60.0,
    )


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]
