"""Lessons on their way to be learned from: what is refused, and what is kept."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainer_client import lesson

from paceline.trainer.online.lessons import TargetIdentity, read_lesson
from paceline.trainer.online.window import Window
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason

TARGET = TargetIdentity("m", "h", 100)


def of_target(number: int = 1, **changes: object) -> trainer_pb2.Lesson:
    return lesson(number, **{"model": "m", "tokenizer_hash": "h", **changes})


def test_a_lesson_is_read_as_it_was_written() -> None:
    read = read_lesson(of_target(), TARGET)
    assert (read.context, read.tokens, read.temperature) == ((1, 2, 3), (4, 5), 0.5)
    assert read.accepted.tolist() == [True, False]
    assert read.top_ids.tolist() == [[4, 1], [5, 2]]
    assert np.allclose(read.top_log_probs, [[-0.125, -2.5], [-0.25, -3.0]])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "other"}, Reason.UNKNOWN_MODEL),
        ({"tokenizer_hash": "other"}, Reason.VOCABULARY_MISMATCH),
        ({"tokens": [4, 100]}, Reason.TOKEN_OUT_OF_VOCABULARY),
        ({"context": [100]}, Reason.TOKEN_OUT_OF_VOCABULARY),
        ({"top_k_ids": [4, 1, 5, 100]}, Reason.TOKEN_OUT_OF_VOCABULARY),
        ({"accepted": [True]}, Reason.MALFORMED),
        ({"top_k": 3}, Reason.MALFORMED),
        ({"tokens": [], "accepted": [], "top_k_ids": [], "top_k_log_probs": []}, Reason.MALFORMED),
        ({"top_k_log_probs": [math.nan, -1, -1, -1]}, Reason.MALFORMED),
        ({"top_k_log_probs": [-math.inf, -1, -1, -1]}, Reason.MALFORMED),
        ({"top_k_log_probs": [0.5, -1, -1, -1]}, Reason.MALFORMED),
        ({"top_k_log_probs": [-0.1, -0.1, -1, -1]}, Reason.MALFORMED),
    ],
)
def test_what_must_not_be_learned_from_is_refused(changes: dict[str, object], reason: Reason) -> None:
    with pytest.raises(PacelineError) as refused:
        read_lesson(of_target(**changes), TARGET)
    assert refused.value.reason == reason


def test_lessons_of_other_weights_are_refused_where_both_are_known() -> None:
    known = replace(TARGET, weights_hash="w")
    with pytest.raises(PacelineError, match="weights_hash is x; it must be w") as refused:
        read_lesson(of_target(weights_hash="x"), known)
    assert refused.value.reason == Reason.UNKNOWN_MODEL
    for told, target in (("w", known), ("", known), ("x", TARGET)):
        assert len(read_lesson(of_target(weights_hash=told), target).tokens) == 2


def test_a_target_with_other_weights_begins_anew() -> None:
    window = Window(replace(TARGET, weights_hash="w"), 1000)
    window.add([of_target(1, weights_hash="w"), of_target(2, weights_hash="w")])
    window.follow("x")
    assert (len(window), window.num_tokens, window.new_tokens, window.newest_id) == (0, 0, 0, b"")
    window.add([of_target(3, weights_hash="w"), of_target(4, weights_hash="x")])
    assert window.newest_id == of_target(4).lesson_id
    assert len(window) == 1


def test_refused_lessons_are_counted_and_the_others_are_kept() -> None:
    window = Window(TARGET, 1000)
    window.add([of_target(1), of_target(2, model="other"), of_target(3, top_k_log_probs=[math.nan] * 4), of_target(4)])
    assert len(window) == 2
    assert window.refused == {"UNKNOWN_MODEL": 1, "MALFORMED": 1}
    assert window.newest_id == of_target(4).lesson_id


@given(st.lists(st.integers(1, 40), max_size=40), st.integers(1, 200))
def test_the_newest_are_kept_within_bounds(sizes: list[int], max_tokens: int) -> None:
    window = Window(TARGET, max_tokens)
    for number, size in enumerate(sizes):
        tokens = {"tokens": [1] * size, "accepted": [False] * size, "top_k": 0, "top_k_ids": [], "top_k_log_probs": []}
        window.add([of_target(number, **tokens)])
    kept = sorted(window.lessons(held_out=True) + window.lessons(held_out=False), key=lambda item: item.lesson_id)
    assert [len(item.tokens) for item in kept] == sizes[len(sizes) - len(kept) :]
    assert window.num_tokens == sum(len(item.tokens) for item in kept)
    assert window.num_tokens <= max_tokens or len(kept) == 1
    if len(kept) < len(sizes):
        assert window.num_tokens + sizes[-len(kept) - 1] > max_tokens
    assert window.new_tokens == sum(sizes)


def test_acceptance_is_that_of_the_latest_tokens() -> None:
    window = Window(TARGET, 1 << 20)
    for number in range(200):
        flags = [number >= 100] * 100
        window.add([of_target(number, tokens=[1] * 100, accepted=flags, top_k=0, top_k_ids=[], top_k_log_probs=[])])
    assert window.acceptance == 1.0
    assert window.best_acceptance == 1.0
    window.refitted()
    assert (window.new_tokens, window.best_acceptance) == (0, 0.0)


def test_about_one_lesson_of_eight_is_held_out_for_good() -> None:
    read = [read_lesson(of_target(number), TARGET) for number in range(800)]
    held = [item.is_held_out for item in read]
    assert 60 <= sum(held) <= 140
    assert held == [read_lesson(of_target(number), TARGET).is_held_out for number in range(800)]
