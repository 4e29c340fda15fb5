"""Choices of positions, against small cases worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from learning_cases import SEEDS, generator

from paceline.trainer.learning.selection import SELECTIONS
from paceline.trainer.learning.selection.base import Evidence
from paceline.trainer.learning.selection.drift_cut import drift_cut
from paceline.trainer.learning.selection.length_cut import length_cut
from paceline.trainer.learning.selection.on_policy import on_policy
from paceline.trainer.learning.selection.paced import paced
from paceline.trainer.learning.selection.rejected_only import rejected_only
from paceline.trainer.learning.selection.tip import tip
from paceline.wire.errors import PacelineError

torch.set_num_threads(1)


def evidence(
    accepted: list[int] | None = None,
    entropy: list[float] | None = None,
    divergence: list[float] | None = None,
    starts: tuple[int, ...] = (0,),
    right: list[int] | None = None,
) -> Evidence:
    length = max(len(each) for each in (accepted, entropy, divergence, right) if each is not None)
    return Evidence(
        accepted=torch.tensor(accepted or [0] * length, dtype=torch.bool),
        right=torch.tensor(right or [0] * length, dtype=torch.bool),
        entropy=torch.tensor(entropy or [0.0] * length),
        divergence=torch.tensor(divergence or [0.0] * length),
        starts=torch.tensor(starts, dtype=torch.int64),
    )


def some(seed: int, n: int) -> Evidence:
    draw = generator(seed)
    starts = (torch.rand(n, generator=draw) < 0.3).index_fill(0, torch.tensor([0]), True)
    return Evidence(
        accepted=torch.rand(n, generator=draw) < 0.5,
        right=torch.rand(n, generator=draw) < 0.5,
        entropy=torch.rand(n, generator=draw) * 4,
        divergence=torch.rand(n, generator=draw),
        starts=starts.nonzero().squeeze(-1),
    )


def test_rejected_only_takes_what_drafts_got_wrong() -> None:
    assert rejected_only(evidence(accepted=[1, 0, 0, 1])).tolist() == [0, 1, 1, 0]


def test_on_policy_counts_the_drafts_that_get_there() -> None:
    """Drafts of depth 3. To position 3 a draft comes from itself, from 2, and from 1: 2 and 1 were right. To 4 only its
    own, since 3 was wrong; 5 begins a sequence; to 6 its own and the one from 5, which was right."""
    case = evidence(right=[0, 1, 1, 0, 1, 1, 1], starts=(0, 5))
    assert torch.allclose(on_policy(case, depth=3) * 3, torch.tensor([1.0, 1.0, 2.0, 3.0, 1.0, 1.0, 2.0]))
    assert on_policy(case, depth=1).tolist() == [1.0] * 7


def test_tip_takes_the_unsure_and_the_surely_wrong() -> None:
    """Greatest entropy 4, greatest divergence 0.8, so
    h = 1, 0.25, 0, 0, 0.5        d = 0, 0.25, 1, 0, 0.5
    s = h + d - h d = 1, 0.4375, 1, 0, 0.75
    """
    case = evidence(entropy=[4.0, 1.0, 0.0, 0.0, 2.0], divergence=[0.0, 0.2, 0.8, 0.0, 0.4])
    assert tip(case, rho=0.4).tolist() == [1, 0, 1, 0, 0]
    assert tip(case, rho=0.5).tolist() == [1, 0, 1, 0, 1]  # ceil(2.5)
    assert tip(case, rho=0.2).tolist() == [1, 0, 0, 0, 0]  # the earlier of two equal ones
    assert tip(case, rho=1.0).tolist() == [1] * 5


def test_tip_of_a_student_that_is_sure_and_right_everywhere_is_still_a_share() -> None:
    assert tip(evidence(entropy=[0.0] * 4), rho=0.5).tolist() == [1, 1, 0, 0]


def test_paced_weighs_sequences_by_how_well_they_went() -> None:
    """Three sequences: all accepted, 3 of 4, none. w = p (1 - p) = 0, 3/16, 0; alpha 2, beta 1/2: 9/16 * 1/2."""
    case = evidence(accepted=[1, 1, 1, 1, 1, 0, 0, 0], starts=(0, 2, 6))
    assert paced(case).tolist() == pytest.approx([0, 0] + [3 / 16] * 4 + [0, 0])
    assert paced(case, alpha=2.0, beta=0.5).tolist() == pytest.approx([0, 0] + [9 / 32] * 4 + [0, 0])
    assert paced(case, alpha=0.0, beta=0.0).tolist() == [1] * 8


def test_drift_cut_ends_a_sequence_where_it_left_the_target() -> None:
    """Window 2, limit 0.5. Means of two: .05 .5 .95 .7 in the first sequence, so it is cut at its fourth position and
    stays cut; the second never exceeds, though the last of the first and its first would together; the third is cut at
    its second."""
    case = evidence(divergence=[0.0, 0.1, 0.9, 1.0, 0.4, 0.9, 0.0, 0.5, 0.6], starts=(0, 5, 7))
    assert drift_cut(case, window=2, limit=0.5).tolist() == [1, 1, 1, 0, 0, 1, 1, 1, 0]


def test_length_cut_takes_the_first_half_of_each() -> None:
    case = evidence(accepted=[0] * 8, starts=(0, 3, 4))
    assert length_cut(case).tolist() == [1, 1, 0, 1, 1, 1, 0, 0]
    assert length_cut(case, share=0.25).tolist() == [1, 0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("name", SELECTIONS)
@given(seed=SEEDS, n=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_weights_are_from_0_to_1(name: str, seed: int, n: int) -> None:
    weights = SELECTIONS[name](some(seed, n))
    assert weights.shape == (n,)
    assert weights.dtype == torch.float32
    assert ((weights >= 0) & (weights <= 1)).all()


@pytest.mark.parametrize("name", [name for name in SELECTIONS if name != "tip"])  # which compares with all others
@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_a_sequence_is_judged_by_itself(name: str, seed: int) -> None:
    first, second = some(seed, 13), some(seed + 1, 17)
    both = Evidence(
        accepted=torch.cat([first.accepted, second.accepted]),
        right=torch.cat([first.right, second.right]),
        entropy=torch.cat([first.entropy, second.entropy]),
        divergence=torch.cat([first.divergence, second.divergence]),
        starts=torch.cat([first.starts, second.starts + 13]),
    )
    apart = torch.cat([SELECTIONS[name](first), SELECTIONS[name](second)])
    assert torch.allclose(SELECTIONS[name](both), apart)


@given(seed=SEEDS, n=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_tip_does_not_mind_units_of_entropy(seed: int, n: int) -> None:
    case = some(seed, n)
    bits = dataclasses.replace(case, entropy=case.entropy * 2)
    assert torch.equal(tip(case), tip(bits))


@pytest.mark.parametrize("name", SELECTIONS)
def test_nothing_in_nothing_out(name: str) -> None:
    empty = torch.zeros(0)
    none = Evidence(accepted=empty.bool(), right=empty.bool(), entropy=empty, divergence=empty, starts=empty.long())
    assert SELECTIONS[name](none).shape == (0,)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("accepted", torch.tensor([0, 1])),
        ("right", torch.tensor([0, 1])),
        ("right", torch.tensor([True])),
        ("entropy", torch.tensor([0.0])),
        ("entropy", torch.tensor([0.0, torch.nan])),
        ("entropy", torch.tensor([0.0, -1.0])),
        ("divergence", torch.tensor([0.0, 1.5])),
        ("starts", torch.tensor([1])),
        ("starts", torch.tensor([0, 0])),
        ("starts", torch.tensor([0, 2])),
        ("starts", torch.tensor([], dtype=torch.int64)),
        ("starts", torch.tensor([0.0])),
    ],
)
def test_what_is_no_evidence_is_refused_by_name(field: str, value: torch.Tensor) -> None:
    good = {
        "accepted": torch.tensor([True, False]),
        "right": torch.tensor([True, False]),
        "entropy": torch.tensor([0.0, 1.0]),
        "divergence": torch.tensor([0.0, 1.0]),
        "starts": torch.tensor([0, 1]),
    }
    Evidence(**good)
    with pytest.raises(PacelineError) as raised:
        Evidence(**{**good, field: value})
    assert raised.value.field == field


@pytest.mark.parametrize(
    ("choice", "options"),
    [
        (tip, {"rho": 0.0}),
        (tip, {"rho": 1.5}),
        (paced, {"alpha": -1.0}),
        (paced, {"beta": 1e9}),
        (drift_cut, {"window": 0}),
        (drift_cut, {"limit": 2.0}),
        (length_cut, {"share": 0.0}),
    ],
)
def test_options_out_of_range_are_refused_by_name(choice, options: dict[str, float]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PacelineError) as raised:
        choice(evidence(accepted=[1, 0]), **options)
    assert raised.value.field == next(iter(options))
