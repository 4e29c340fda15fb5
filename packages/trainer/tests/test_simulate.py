"""Simulated trees are the trees that serving would draft, and what they are said to be worth is what they commit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_heads import BORROWING, SHAPE, tiny_head
from tiny_texts import borrowing_texts, cyclic_texts

from paceline.trainer.models.feature_head import FeatureHead
from paceline.trainer.recipes.simulate import ROOT, DraftedTree, TreeShape, acceptance, draft, tokens_per_step
from paceline.trainer.training.head_task import HeadText

torch.set_num_threads(1)


@torch.no_grad()
def probabilities(head: FeatureHead, text: HeadText, start: int, path: list[int]) -> torch.Tensor:
    """What the head says comes after a path of tokens that follows row `start`: one row after the other, without a
    cache."""
    ids = torch.cat((text.ids[1 : start + 2], torch.tensor(path, dtype=torch.int64)))
    block, vocab_size = head.shape.block, head.shape.vocab_size
    others = torch.zeros(1, len(ids), block.width)
    for row, token in enumerate(ids.tolist()):
        if token > vocab_size and text.borrowed is not None:
            others[0, row] = text.borrowed.embeddings[token - vocab_size - 1]
    positions = text.first + 1 + torch.arange(len(ids))
    known = head.fuse(text.features[: start + 1].float())
    keys = values = torch.zeros(1, 0, block.num_kv_heads, block.head_dim)
    hidden = known
    for _ in range(len(path) + 1):
        rows = len(hidden)
        visible = torch.ones(1, rows, rows).tril().bool()
        logits, new, _, _ = head(
            ids[None, :rows], positions[None, :rows], visible, hidden[None], keys, values, others[:, :rows]
        )
        hidden = torch.cat((known, new[0, start:]))
    found = torch.full((vocab_size + 40,), -torch.inf)
    found[:vocab_size] = logits[0, -1]
    if text.borrowed is not None:
        for slot, since in enumerate(text.borrowed.since.tolist()):
            if since <= start:
                found[vocab_size + 1 + slot] = text.borrowed.embeddings[slot].float() @ head.normed(hidden[-1])
    return found.softmax(-1)


def path_of(tree: DraftedTree, node: int) -> list[int]:
    return [tree.tokens[step] for step in reversed(tree.path(node))]


@pytest.mark.parametrize("borrows", [False, True])
def test_each_node_has_the_probability_that_serving_would_give_it(borrows: bool) -> None:
    head = tiny_head(1, BORROWING if borrows else SHAPE)
    (text,) = borrowing_texts(BORROWING, 1, 14, seed=2) if borrows else cyclic_texts(SHAPE, 1, 9)
    borrowed = 0
    shape = TreeShape(num_nodes=10, num_passes=4, pass_rows=3, branches=4)
    for start, tree in zip(text.starts, draft(head, text, shape), strict=True):
        assert len(tree.tokens) == 10
        assert max(len(tree.path(node)) for node in range(10)) > 1
        for node in range(10):
            *above, token = path_of(tree, node)
            expected = float(probabilities(head, text, start, above)[token])
            torch.testing.assert_close(tree.confidence[node], expected, rtol=1e-4, atol=1e-6)
            borrowed += token > head.shape.vocab_size
    assert bool(borrowed) == borrows


def test_a_tree_has_the_likeliest_nodes() -> None:
    """Of all paths of up to three tokens, if every node may be expanded."""
    head = tiny_head(2)
    (text,) = cyclic_texts(SHAPE, 1, 7)
    vocab_size = SHAPE.vocab_size
    shape = TreeShape(num_nodes=6, num_passes=9, pass_rows=6, branches=vocab_size)
    start = text.starts[0]
    values: dict[tuple[int, ...], float] = {}
    for first in range(vocab_size):
        values[first,] = float(probabilities(head, text, start, [])[first])
    for first in sorted(range(vocab_size), key=lambda token: -values[token,])[:6]:
        second = probabilities(head, text, start, [first]) * values[first,]
        values |= {(first, token): float(second[token]) for token in range(vocab_size)}
        for token in second.topk(6).indices.tolist():
            third = probabilities(head, text, start, [first, token]) * values[first, token]
            values |= {(first, token, last): float(third[last]) for last in range(vocab_size)}
    best = sorted(values, key=lambda path: -values[path])[:6]
    tree = draft(head, text, shape)[0]
    found = {tuple(path_of(tree, node)) for node in range(6)}
    assert found == set(best)


@given(st.lists(st.tuples(st.integers(-1, 20), st.integers(0, 3), st.floats(0.1, 1.0)), max_size=20), st.integers(1, 9))
def test_pruning_keeps_a_tree(nodes: list[tuple[int, int, float]], count: int) -> None:
    tree = DraftedTree()
    for index, (parent, token, confidence) in enumerate(nodes):
        tree.add(token, min(parent, index - 1), confidence)
    pruned = tree.pruned(count)
    assert len(pruned.tokens) == min(count, len(nodes))
    assert all(parent < node for node, parent in enumerate(pruned.parents))
    assert pruned.values == sorted(tree.values, reverse=True)[:count]


def test_a_step_commits_the_longest_right_path_and_one_token_more() -> None:
    text = HeadText(torch.arange(10), 0, torch.zeros(10, 1).bfloat16(), 2)
    trees = [DraftedTree() for _ in text.starts]
    assert tokens_per_step(text, trees) == (8, 8)
    node = trees[0].add(2, ROOT, 0.5)
    trees[0].add(9, node, 0.5)
    trees[0].add(3, node, 0.4)
    assert trees[0].num_right([2, 3, 4]) == 2
    assert tokens_per_step(text, trees) == (8, 6)


def test_acceptance_is_that_of_chains_of_best_tokens() -> None:
    head = tiny_head(3, BORROWING)
    texts = cyclic_texts(BORROWING, 2, 12) + borrowing_texts(BORROWING, 2, 12)
    tried, right = [0] * 3, [0] * 3
    for text in texts:
        ids = text.ids.tolist()
        for start in text.starts:
            path: list[int] = []
            for depth, token in enumerate(ids[start + 2 : start + 5]):
                tried[depth] += 1
                if int(probabilities(head, text, start, path).argmax()) != token:
                    break
                right[depth] += 1
                path.append(token)
    expected = [count / max(of, 1) for count, of in zip(right, tried, strict=True)]
    torch.testing.assert_close(list(acceptance(head, texts, 3)), expected)
