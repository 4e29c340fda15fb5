"""Tree policies that draw: what they draw is distributed as sampling without replacement is."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_trees import drive, new_tree, paths, successors

from paceline.drafter.live_tree import LiveTree, Successors
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees import stochastic_beam
from paceline.drafter.trees.base import Shape, TreePolicy
from paceline.drafter.trees.gumbel_top_k import GumbelTopK, branching
from paceline.drafter.trees.stochastic_beam import StochasticBeam, shifted

Path = tuple[int, ...]
Q: dict[Path, list[float]] = {(): [0.5, 0.3, 0.2], (0,): [0.6, 0.3, 0.1], (1,): [0.2, 0.2, 0.6], (2,): [0.1, 0.8, 0.1]}
NUM_DRAWS = 5000


def draw(kind: Callable[[Shape], TreePolicy], shape: Shape, random: np.random.Generator) -> LiveTree:
    """A tree of depth 2 over three tokens, with noise that is independent everywhere."""

    def model(path: Sequence[int]) -> Successors:
        return successors(Q[tuple(path)], noise=random.gumbel(size=3))

    tree = new_tree(model)
    drive(kind(shape), tree, shape, Budget(99, 99), model)
    return tree


def without_replacement(weights: dict[Path, float], size: int) -> dict[tuple[Path, ...], float]:
    """Probability of each ordered sample."""
    law = {}
    for sample in itertools.permutations(weights, size):
        probability, left = 1.0, 1.0
        for item in sample:
            probability *= weights[item] / left
            left -= weights[item]
        law[sample] = probability
    return law


def check_law(found: Counter[tuple[Path, ...]], law: dict[tuple[Path, ...], float]) -> None:
    """Chi-square at about one in 100,000, by Wilson and Hilferty's approximation; rare outcomes are taken together."""
    num = found.total()
    assert set(found) <= set(law)
    common = [outcome for outcome, probability in law.items() if probability * num >= 5]
    counts = [found[outcome] for outcome in common]
    expected = [law[outcome] * num for outcome in common]
    if sum(expected) < num - 1e-6:
        counts.append(num - sum(counts))
        expected.append(num - sum(expected))
    statistic = sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True))
    degrees = len(counts) - 1
    assert statistic < degrees * (1 - 2 / (9 * degrees) + 4.3 * math.sqrt(2 / (9 * degrees))) ** 3


def of_depth(tree: LiveTree, depth: int) -> tuple[Path, ...]:
    return tuple(paths(tree, [index for index, node in enumerate(tree.nodes) if node.depth == depth]))


SEQUENCES = {(a, b): Q[()][a] * Q[(a,)][b] for a in range(3) for b in range(3)}


@pytest.mark.parametrize("width", [2, 3])
def test_a_stochastic_beam_holds_sequences_drawn_without_replacement(width: int) -> None:
    random = np.random.default_rng(1)
    shape = Shape(width, depth=2)
    trees = [draw(StochasticBeam, shape, random) for _ in range(NUM_DRAWS)]
    # A beam's nodes are added with the greatest perturbed value first: the order in which they were drawn.
    check_law(Counter(of_depth(tree, 2)[:2] for tree in trees), without_replacement(SEQUENCES, 2))
    firsts = without_replacement({(a,): Q[()][a] for a in range(3)}, width)
    check_law(Counter(of_depth(tree, 1) for tree in trees), firsts)
    assert all(len(of_depth(tree, 2)) == width for tree in trees)


def test_gumbel_top_k_draws_siblings_without_replacement_and_then_one_below_each() -> None:
    random = np.random.default_rng(2)
    trees = [draw(GumbelTopK, Shape(width=2, depth=2), random) for _ in range(NUM_DRAWS)]
    law = {
        ((a,), (b,), (a, below_a), (b, below_b)): probability * Q[(a,)][below_a] * Q[(b,)][below_b]
        for ((a,), (b,)), probability in without_replacement({(a,): Q[()][a] for a in range(3)}, 2).items()
        for below_a, below_b in itertools.product(range(3), repeat=2)
    }
    assert math.fsum(law.values()) == pytest.approx(1)
    check_law(Counter((*of_depth(tree, 1), *of_depth(tree, 2)) for tree in trees), law)


def test_without_the_shift_a_beam_holds_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the check sees it: children would forget the luck by which their parent came into the beam."""
    monkeypatch.setattr(stochastic_beam, "shifted", lambda above, total, greatest: total)
    random = np.random.default_rng(1)
    trees = [draw(StochasticBeam, Shape(width=2, depth=2), random) for _ in range(NUM_DRAWS)]
    with pytest.raises(AssertionError):
        check_law(Counter(of_depth(tree, 2) for tree in trees), without_replacement(SEQUENCES, 2))


@pytest.mark.parametrize(
    ("width", "factors"), [(1, ()), (4, (2, 2)), (6, (3, 2)), (7, (7,)), (8, (2, 2, 2)), (12, (3, 2, 2))]
)
def test_branching_fills_the_width_as_early_as_it_can(width: int, factors: tuple[int, ...]) -> None:
    assert branching(width, 6) == (*factors, *[1] * (6 - len(factors)))
    assert branching(width, 1) == (*factors, 1)[:1]


finite = st.floats(-40, 40)


@settings(deadline=None)
@given(finite, finite, st.floats(0, 40))
def test_shifted_values_are_those_of_the_formula(above: float, greatest: float, behind: float) -> None:
    total = greatest - behind
    with localcontext() as context:
        context.prec = 60
        terms = Decimal(-above).exp() - Decimal(-greatest).exp() + Decimal(-total).exp()
        assert shifted(above, total, greatest) == pytest.approx(float(-terms.ln()), abs=1e-9)


@settings(deadline=None)
@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300), st.lists(st.floats(0, 1e300), max_size=5))
def test_shifting_keeps_order_and_greatest_and_never_fails(above: float, greatest: float, behind: list[float]) -> None:
    assert shifted(above, greatest, greatest) == above
    values = [shifted(above, greatest - gap, greatest) for gap in sorted(behind)]
    assert all(value <= above for value in values)
    assert all(earlier >= later for earlier, later in itertools.pairwise(values))


def test_tokens_that_cannot_be_drawn_are_not() -> None:
    impossible = lambda path: successors([1.0, 0.0, 0.0], claims=[0.5, 0.5, 0.5])  # noqa: E731
    shape = Shape(width=3, depth=3)
    tree = new_tree(impossible)
    drive(StochasticBeam(shape), tree, shape, Budget(99, 99), impossible)
    assert paths(tree, range(1, len(tree.nodes))) == [(0,), (0, 0), (0, 0, 0)]
