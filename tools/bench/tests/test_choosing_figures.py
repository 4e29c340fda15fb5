"""Policies against arms set by hand, by hand-made measurements; and drafters that don't pay do what they say."""

from __future__ import annotations

import time

import hindering_drafter
import pytest
from choosing_figures import choosing_figures, curve, identical, second_half
from choosing_run import arms_by_hand
from figures import OFF, Measurement
from hindering_drafter import Late, RandomTokens
from rounds import BenchError

from paceline.drafter.strategies.base import Budget, Context, Sampling, ScopeBounds
from paceline.drafter.strategies.suffix import Suffix


def measured(system: str, seconds: list[float], ids: tuple[int, ...] = (1, 2), repeat: int = 0) -> list[Measurement]:
    return [Measurement(system, str(number), "qa", 0, repeat, ids, taken, 1) for number, taken in enumerate(seconds)]


def test_a_policy_is_compared_with_the_best_arm_over_all_and_in_the_second_half() -> None:
    runs = [
        *measured(OFF, [2.0, 2.0, 2.0, 2.0]),
        *measured("a", [1.0, 1.0, 2.0, 2.0]),
        *measured("b", [2.0, 2.0, 1.0, 0.5]),
        *measured("linucb", [2.0, 1.0, 1.0, 0.75]),
    ]
    found = choosing_figures(runs, ["linucb"])
    assert found["best_arm"] == "b"
    assert found["tokens_per_second"]["none"]["all"] == 1.0
    assert found["tokens_per_second"]["b"]["all"] == pytest.approx(8 / 5.5, abs=1e-3)
    policy = found["policies"]["linucb"]
    assert policy["over_best"] == pytest.approx(5.5 / 4.75, abs=1e-3)
    assert policy["over_best_settled"] == pytest.approx(1.5 / 1.75, abs=1e-3)
    assert policy["over_best_spread"] == [policy["over_best"]] * 2
    assert policy["over_none"] == pytest.approx(8.0 / 4.75, abs=1e-3)
    assert found["identical"] == [12, 12]


def test_the_spread_is_over_repeats_against_the_arm_that_was_best_in_all() -> None:
    runs = [
        *measured(OFF, [2.0]),
        *measured("linucb", [1.0]),
        *measured(OFF, [2.0], repeat=1),
        *measured("linucb", [4.0], repeat=1),
    ]
    found = choosing_figures(runs, ["linucb"])
    assert found["best_arm"] == "none"
    assert found["policies"]["linucb"]["over_best_spread"] == [0.5, 2.0]


def test_other_tokens_than_those_of_plain_decoding_are_counted() -> None:
    runs = [*measured(OFF, [1.0, 1.0]), *measured("a", [1.0], ids=(1, 3)), *measured("b", [1.0])]
    assert identical(runs) == [1, 2]


def test_halves_and_stretches_are_of_each_system_by_itself() -> None:
    runs = [*measured("a", [1.0, 2.0, 4.0, 8.0]), *measured("b", [1.0, 1.0])]
    assert [(m.system, m.seconds) for m in second_half(runs)] == [("a", 4.0), ("a", 8.0), ("b", 1.0)]
    assert curve(runs, "a", points=2) == [round(4 / 3, 3), round(4 / 12, 3)]
    assert len(curve(runs, "b")) == 2


def test_arms_by_hand() -> None:
    names = ["suffix", "late"]
    assert [str(arm) for arm in arms_by_hand("late + suffix; none;late;late", names)] == ["none", "late+suffix", "late"]
    assert [str(arm) for arm in arms_by_hand("", names)] == ["none", "late", "suffix", "late+suffix"]
    with pytest.raises(BenchError, match="no drafter 'x'; there are suffix, late"):
        arms_by_hand("suffix+x", names)
    with pytest.raises(BenchError, match="no drafters"):
        arms_by_hand("", [])


def test_late_drafts_what_suffix_does_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hindering_drafter, "LATE_MS", 30.0)
    context = Context([1, 2, 3, 1, 2], 0, Sampling())
    bounds, budget = ScopeBounds(10, 1000), Budget(8, 8)
    began = time.monotonic()
    late = Late(bounds).begin(context).draft(budget)
    assert time.monotonic() - began >= 0.03
    assert late == Suffix(bounds).begin(context).draft(budget)


def test_random_tokens_are_a_chain_within_the_vocabulary_and_the_budget() -> None:
    proposer = RandomTokens(ScopeBounds(10, 0)).begin(Context([1], 0, Sampling()))
    drafts = [proposer.draft(Budget(8, 8)) for _ in range(20)]
    assert all(draft.parents == [-1, 0, 1, 2] for draft in drafts)
    assert len({tuple(draft.tokens) for draft in drafts}) > 10
    assert all(0 <= token < 10 for draft in drafts for token in draft.tokens)
    assert len(proposer.draft(Budget(2, 8))) == 2
