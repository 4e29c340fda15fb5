"""Reading a page of metrics, and what changed between two."""

from __future__ import annotations

from pathlib import Path

import pytest
from counters import parse_counters, read_counters
from rounds import BenchError

from paceline.cli.stack import Service

EARLIER = """\
# HELP x_total Something.
# TYPE x_total counter
x_total{drafter="a",position="0"} 5.0
x_total{drafter="a",position="2"} 1.0
"""
LATER = """\
# TYPE x_total counter
x_total{drafter="a",position="0"} 8.0
x_total{drafter="a",position="2"} 1.0
x_total{drafter="a b\\"c",position="1"} 4.0
# TYPE y gauge
y 2.5
"""


def test_what_came_since_is_told_by_labels() -> None:
    counted = parse_counters(LATER).since(parse_counters(EARLIER))
    assert counted.total("x_total") == 7
    assert counted.total("x_total", drafter="a") == 3
    assert counted.total("x_total", drafter="nobody") == 0
    assert counted.total("y") == 2.5
    assert counted.by_position("x_total") == [3, 4]
    assert counted.by_position("x_total", drafter='a b"c') == [0, 4]
    assert counted.by_position("x_total", drafter="nobody") == []
    assert {labels["drafter"] for labels in counted.labels("x_total")} == {"a", 'a b"c'}


def test_a_service_without_metrics_is_named(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("[info] ready address=127.0.0.1:1\n")
    service = Service("verifier", None, log, tmp_path / "ready")  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="verifier's log names no address of metrics"):
        read_counters(service)
