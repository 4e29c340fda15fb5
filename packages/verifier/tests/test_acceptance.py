"""`coupled`: what comes out follows the target's law exactly, whatever the tree."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.verifier.acceptance import RULES, coupled
from paceline.wire import noise

DEPTH = 3
Tree = tuple[tuple[int, ...], tuple[int, ...]]

TREES: dict[str, Tree] = {
    "none": ((), ()),
    "chain": ((0, 1, 2), (-1, 0, 1)),
    "every outcome": (
        tuple(token for _ in range(1 + 3) for token in range(3)),
        (-1, -1, -1, 0, 0, 0, 1, 1, 1, 2, 2, 2),
    ),
    "the least likely only": ((2, 2, 2), (-1, 0, 1)),
    "siblings that say the same": ((1, 1, 0, 2, 1), (-1, -1, 0, 1, 1)),
    "deeper than the answer": ((0, 0, 0, 0, 0, 1), (-1, 0, 1, 2, 3, 4)),
    "junk first": ((2, 1, 0, 1, 2, 0), (-1, -1, 0, 1, 3, 4)),
}


def target(context: Sequence[int], vocab: int = 3) -> np.ndarray:
    """A conditional distribution that differs for every context; some tokens are impossible after some contexts."""
    rng = np.random.default_rng([len(context), *context, 7])
    weights = rng.random(vocab) ** 3
    if sum(context) % 4 == 1:
        weights[sum(context) % vocab] = 0.0
    return weights / weights.sum()


def path_to(node: int, tree: Tree) -> list[int]:
    tokens, parents = tree
    path: list[int] = []
    while node >= 0:
        path.insert(0, tokens[node])
        node = parents[node]
    return path


def decode(tree: Tree, pick: Callable[[Sequence[int]], int]) -> list[int]:
    """One step with the tree, then plain decoding, up to DEPTH tokens. pick: the target's token after a context."""
    walk = coupled(*tree, lambda node: pick(path_to(node, tree)))
    output = list(walk.tokens)
    while len(output) < DEPTH:
        output.append(pick(output))
    return output[:DEPTH]


def law(tree: Tree) -> dict[tuple[int, ...], float]:
    """The output's exact law: runs `decode` once for every possible sequence of picks."""
    probabilities: dict[tuple[int, ...], float] = {}
    pending: list[tuple[int, ...]] = [()]
    while pending:
        script = pending.pop()
        taken: list[tuple[Sequence[int], int]] = []

        def pick(context: Sequence[int], script=script, taken=taken) -> int:
            token = script[len(taken)] if len(taken) < len(script) else 0
            taken.append((tuple(context), token))
            return token

        output = tuple(decode(tree, pick))
        for position in range(len(script), len(taken)):
            done = tuple(token for _, token in taken[:position])
            pending += [(*done, other) for other in range(1, 3)]
        weight = float(np.prod([target(context)[token] for context, token in taken]))
        probabilities[output] = probabilities.get(output, 0.0) + weight
    return probabilities


@pytest.mark.parametrize("name", TREES)
def test_the_output_follows_the_targets_law_exactly(name):
    found = law(TREES[name])
    assert sum(found.values()) == pytest.approx(1.0, abs=1e-12)
    for output in itertools.product(range(3), repeat=DEPTH):
        expected = np.prod([target(output[:depth])[output[depth]] for depth in range(DEPTH)])
        assert abs(found.get(output, 0.0) - expected) <= 1e-12, output


@st.composite
def trees(draw: st.DrawFn, vocab: int = 4, max_nodes: int = 12) -> Tree:
    num_nodes = draw(st.integers(0, max_nodes))
    tokens = tuple(draw(st.integers(0, vocab - 1)) for _ in range(num_nodes))
    parents = tuple(draw(st.integers(-1, node - 1)) for node in range(num_nodes))
    return tokens, parents


@given(trees(), st.integers(0, 2**64 - 1))
def test_with_any_tree_the_text_is_the_one_without(tree: Tree, seed: int):
    def pick(context: Sequence[int]) -> int:
        scores = np.log(target(context, 4) + 1e-300) + noise.gumbel(seed, len(context), np.arange(4))
        return int(np.argmax(scores))

    assert decode(tree, pick) == decode(((), ()), pick)


@given(trees(), st.integers(0, 2**64 - 1))
def test_a_walk_is_a_path_of_the_tree_and_one_token_more(tree: Tree, seed: int):
    tokens, parents = tree
    calls: list[int] = []

    def pick(node: int) -> int:
        calls.append(node)
        return int(noise.uniform_bits(seed, node + 1, np.arange(1))[0] % np.uint64(4))

    walk = coupled(tokens, parents, pick)
    assert calls == [-1, *walk.accepted]
    assert [parents[node] for node in walk.accepted] == calls[:-1]
    assert tuple(tokens[node] for node in walk.accepted) == walk.tokens[:-1]
    assert len(walk.tokens) == len(walk.accepted) + 1
    ends = {tokens[node] for node in range(len(tokens)) if parents[node] == calls[-1]}
    assert walk.tokens[-1] not in ends


@pytest.mark.parametrize("name", ["every outcome", "the least likely only", "siblings that say the same"])
def test_with_the_shared_noise_the_first_two_tokens_have_the_targets_frequencies(name):
    # Draw i takes the noise of six ids of its own, so that all draws are one call. The walk depends on the picks
    # alone, so each distinct set of picks is walked once.
    vocab, draws = 6, 100_000
    first = target((), vocab)
    second = np.stack([target((token,), vocab) for token in range(vocab)])
    noise_0, noise_1 = (noise.gumbel(17, at, np.arange(draws * vocab)).reshape(draws, 1, vocab) for at in (0, 1))
    with np.errstate(divide="ignore"):
        picks = np.concatenate(
            [np.argmax(np.log(first) + noise_0, axis=-1), np.argmax(np.log(second) + noise_1, axis=-1)], axis=1
        )
    tokens, parents = TREES[name]
    counts = np.zeros((vocab, vocab))
    distinct, repeats = np.unique(picks, axis=0, return_counts=True)
    for row, count in zip(distinct, repeats, strict=True):
        table = {(): int(row[0]), **{(token,): int(row[1 + token]) for token in range(vocab)}}
        walk = coupled(tokens, parents, lambda node, table=table: table.get(tuple(path_to(node, TREES[name])), 0))
        output = walk.tokens if len(walk.tokens) > 1 else (walk.tokens[0], table[walk.tokens])
        counts[output[0], output[1]] += count
    expected = draws * first[:, None] * second
    assert counts[expected == 0].sum() == 0
    cells = expected > 5
    chi_square = ((counts - expected)[cells] ** 2 / expected[cells]).sum()
    freedom = cells.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


def test_the_rule_is_found_by_name():
    assert RULES["coupled"] is coupled
