"""One form of log lines for all that a process says."""

from __future__ import annotations

import json
import subprocess
import sys

SAYS = """
import logging
import structlog
from paceline.wire import logs

logs.configure("info", as_json=True)
logs.configure("info", as_json=True)  # again doubles nothing
structlog.get_logger().info("ours", request_id="r")
logging.getLogger("a.library").warning("theirs: %s", 7)
logging.getLogger("a.library").info("not shown")
try:
    raise ValueError("why")
except ValueError:
    logging.getLogger("a.library").exception("failed")
"""


def test_what_libraries_warn_of_comes_as_json_too() -> None:
    said = subprocess.run([sys.executable, "-c", SAYS], capture_output=True, text=True, check=True, timeout=60.0)
    lines = [json.loads(line) for line in said.stderr.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("ours", "info"),
        ("theirs: 7", "warning"),
        ("failed", "error"),
    ]
    assert lines[0]["request_id"] == "r"
    assert lines[1]["logger"] == "a.library"
    assert "ValueError: why" in lines[2]["exception"]
    assert not said.stdout
