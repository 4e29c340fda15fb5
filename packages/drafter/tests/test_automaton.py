"""The suffix automaton against brute force."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.drafter.automaton import BREAK, COUNTED_LENGTH, NONE, ROOT, SuffixAutomaton

texts = st.lists(st.integers(0, 2), min_size=1, max_size=60)


def built(text: Sequence[int]) -> SuffixAutomaton:
    automaton = SuffixAutomaton()
    automaton.extend(text)
    return automaton


def ends(text: Sequence[int], word: Sequence[int]) -> list[int]:
    size = len(word)
    return [start + size for start in range(len(text) - size + 1) if list(text[start : start + size]) == list(word)]


def longest_suffix_in(text: Sequence[int], pattern: Sequence[int]) -> int:
    return max(size for size in range(len(pattern) + 1) if ends(text, pattern[len(pattern) - size :]))


@given(texts)
def test_every_substring_is_found_with_its_count_and_its_continuations(text: list[int]) -> None:
    automaton = built(text)
    for start in range(len(text)):
        for stop in range(start + 1, len(text) + 1):
            word = text[start:stop]
            state, length = automaton.match(word)
            found = ends(text, word)
            assert length == len(word)
            followers = dict(automaton.transitions(state, 100))
            assert set(followers) == {text[end] for end in found if end < len(text)}
            if length <= COUNTED_LENGTH:
                assert automaton.count[state] == len(found)
            if length < COUNTED_LENGTH:
                for token, after in followers.items():
                    assert automaton.count[after] == len(ends(text, [*word, token]))


@given(texts, st.lists(st.integers(0, 3), max_size=20))
def test_the_match_is_the_longest_suffix_that_occurs(text: list[int], pattern: list[int]) -> None:
    state, length = built(text).match(pattern)
    assert length == longest_suffix_in(text, pattern)
    assert (state == ROOT) == (length == 0)


@given(texts)
def test_the_link_of_the_whole_is_the_longest_suffix_that_occurred_before(text: list[int]) -> None:
    automaton = built(text)
    earlier = automaton.length[automaton.link[automaton.last]]
    assert earlier == max(
        size for size in range(len(text)) if len(ends(text, text[len(text) - size :])) > 1 or not size
    )


@given(texts, st.integers(0, 60))
def test_appending_piecemeal_gives_the_same_automaton(text: list[int], cut: int) -> None:
    pieces = built(text[:cut])
    pieces.extend(text[cut:])
    whole = built(text)
    assert (pieces.length, pieces.link, pieces.count) == (whole.length, whole.link, whole.count)


@given(texts)
def test_size_is_linear(text: list[int]) -> None:
    automaton = built(text)
    transitions = sum(len(automaton.transitions(state, 100)) for state in range(automaton.num_states))
    assert automaton.num_states <= 2 * len(text)
    assert transitions <= 3 * len(text)


class CountingSteps(SuffixAutomaton):
    steps = 0

    def follow(self, state: int, token: int) -> int:
        type(self).steps += 1
        return super().follow(state, token)


@pytest.mark.parametrize(
    "text",
    [
        [7] * 5000,
        [7, 8] * 2500,
        [*range(100)] * 50,
        [7] * 2500 + [8] + [7] * 2500,
        [7] * 2500 + [8, 7] * 1250,
    ],
    ids=["one token", "two tokens", "long period", "interrupted", "changing"],
)
def test_work_is_linear_on_repetitive_text(text: list[int]) -> None:
    CountingSteps.steps = 0
    automaton = CountingSteps()
    automaton.extend(text)
    assert CountingSteps.steps <= 6 * len(text)  # the walks over links; amortised O(1) per token
    assert sum(automaton.count) <= COUNTED_LENGTH * len(text) * 2  # the counting


def test_follow_is_none_where_nothing_follows() -> None:
    automaton = built([1, 2, BREAK, 3])
    assert automaton.follow(automaton.last, 1) == NONE
    assert automaton.follow(automaton.match([2])[0], 3) == NONE  # BREAK is between
    assert SuffixAutomaton().match([1, 2]) == (ROOT, 0)
    assert len(automaton.transitions(ROOT, 2)) == 2
