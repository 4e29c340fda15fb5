"""Processor time, by hand."""

from __future__ import annotations

import pytest
from busyness import Reading, busy_seconds, read_now, used_by_others

# user nice system idle iowait irq softirq steal guest guest_nice
STAT = """cpu  1 1 1 1 1 1 1 1 1 1
cpu0 100 10 20 5000 300 1 2 7 90 0
cpu1 200 0 0 5000 0 0 0 0 0 0
cpu2 900 0 0 5000 0 0 0 0 0 0
intr 1 2 3
"""


def test_idling_waiting_and_guests_that_are_counted_already_are_not_busy() -> None:
    assert busy_seconds(STAT, {0}, 100) == 1.4
    assert busy_seconds(STAT, {0, 1}, 100) == 3.4
    with pytest.raises(ValueError, match="processors"):
        busy_seconds(STAT, {7}, 100)


def test_others_have_what_is_busy_and_not_our_own() -> None:
    before = Reading(10.0, 100.0, 5.0)
    assert used_by_others(before, Reading(20.0, 120.0, 12.0)) == 1.3
    assert used_by_others(before, Reading(20.0, 104.0, 12.0)) == 0.0  # clocks tick unevenly
    assert used_by_others(before, Reading(20.0, None, 12.0)) is None
    assert used_by_others(before, before) is None


def test_readings_go_on() -> None:
    first, second = read_now(), read_now()
    assert second.at_s >= first.at_s
    assert second.own_s >= first.own_s > 0.0
