"""States of the target, as they are kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.drafter.features import FeatureNeeds, Features, FeatureStretch, is_finite, needs_in_common
from paceline.wire.errors import PacelineError, Reason

WIDTH = 3
NEEDS = FeatureNeeds((2, 9), 16)


def value_at(position: int) -> float:
    return float(position % 251)


def told(first: int, count: int) -> Features:
    values = np.array([[value_at(first + row)] * WIDTH for row in range(count)], np.float32).reshape(count, WIDTH)
    return Features(first, (values.view(np.uint32) >> 16).astype(np.uint16))


@given(st.integers(1, 8), st.lists(st.tuples(st.integers(-6, 2), st.integers(0, 30)), max_size=12))
def test_the_latest_stretch_without_a_gap_is_kept(most: int, messages: list[tuple[int, int]]):
    """Each message begins so much before or behind the end of what is there, and has so many positions."""
    stretch = FeatureStretch(WIDTH, most)
    known: set[int] = set()
    for offset, count in messages:
        first = max(stretch.end + offset, 0)
        end = first + count
        goes_on = bool(known) and first <= stretch.end <= end
        known = known | set(range(stretch.end, end)) if goes_on else set(range(first, end))
        assert stretch.extend(told(first, count)) is goes_on
        kept = range(stretch.first, stretch.end)
        assert stretch.end == end
        assert set(kept) <= known
        assert len(kept) >= min(most, len([position for position in known if position < end]))
        assert len(stretch) == len(kept) <= max(2 * most, 1)
        found = stretch.at(stretch.first, stretch.end)
        assert found.tolist() == [[value_at(position)] * WIDTH for position in kept]


def test_nothing_is_left_of_what_was_cleared():
    stretch = FeatureStretch(WIDTH, 4)
    stretch.extend(told(3, 4))
    stretch.clear()
    assert not len(stretch)
    assert not stretch.extend(told(7, 2)), "what went before is not known"
    assert stretch.at(7, 9).tolist() == told(7, 2).values.astype(np.uint32).__lshift__(16).view(np.float32).tolist()


@pytest.mark.parametrize(("number", "finite"), [(0.0, True), (-3.4e38, True), (np.inf, False), (-np.inf, False)])
def test_what_is_finite(number: float, finite: bool):
    bits = (np.array([[1.0, number]], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    assert is_finite(bits) is finite


@pytest.mark.parametrize("bits", [0x7FC0, 0xFFC0, 0x7F81])
def test_what_is_no_number_is_not_finite(bits: int):
    assert not is_finite(np.array([[0, bits]], np.uint16))


def test_needs_are_met_by_the_same_layers_and_size():
    NEEDS.check((2, 9), 16)
    assert NEEDS.width == 32


@pytest.mark.parametrize(("layers", "size", "why"), [((), 0, "no features"), ((9, 2), 16, "9,2"), ((2, 9), 8, "of 8")])
def test_other_features_are_refused(layers: tuple[int, ...], size: int, why: str):
    with pytest.raises(PacelineError, match=why) as caught:
        NEEDS.check(layers, size)
    assert caught.value.reason == Reason.UNUSABLE_REVISION


def test_heads_in_one_process_must_want_the_same_layers():
    assert needs_in_common([]) is None
    assert needs_in_common([NEEDS]) == NEEDS
    with pytest.raises(PacelineError, match="a process of its own"):
        needs_in_common([NEEDS, FeatureNeeds((2, 8), 16)])
    with pytest.raises(PacelineError, match="of 8"):
        needs_in_common([NEEDS, FeatureNeeds((2, 9), 8)])


@pytest.mark.parametrize(("windows", "common"), [((64, 256), 256), ((64, 0), 0), ((0, 0), 0)])
def test_the_longest_window_is_asked_for(windows: tuple[int, ...], common: int):
    found = needs_in_common(FeatureNeeds((2, 9), 16, window) for window in windows)
    assert found is not None
    assert found.window == common
