"""The tree that grows while a model thinks, held against a dictionary of paths."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_trees import HashModel, new_tree, successors

from paceline.drafter.live_tree import ROOT, LiveTree, Successors

Path = tuple[int, ...]


@dataclass
class NaiveTree:
    """The same by paths. What lies above the root is remembered only to ask the model."""

    model: HashModel
    before: Path = ()
    nodes: dict[Path, int] = field(default_factory=dict)  # rank
    expanded: dict[Path, Successors] = field(default_factory=dict)
    closed: set[Path] = field(default_factory=set)

    def expand(self, path: Path) -> Successors:
        self.expanded[path] = self.model([*self.before, *path])
        return self.expanded[path]

    def claims(self, path: Path) -> list[float]:
        ends = range(1, len(path) + 1)
        return [float(self.expanded[path[: end - 1]].claims[self.nodes[path[:end]]]) for end in ends]

    def log_q(self, path: Path) -> list[float]:
        ends = range(1, len(path) + 1)
        return [float(self.expanded[path[: end - 1]].log_q[self.nodes[path[:end]]]) for end in ends]

    def reroot(self, path: Path) -> None:
        size = len(path)
        self.before += path
        self.nodes = {node[size:]: rank for node, rank in self.nodes.items() if node[:size] == path and node != path}
        self.expanded = {node[size:]: what for node, what in self.expanded.items() if node[:size] == path}
        self.closed = set()


def check(tree: LiveTree, naive: NaiveTree) -> None:
    assert len(tree) == len(naive.nodes)
    paths = [tuple(tree.tokens(index)) for index in range(len(tree.nodes))]
    assert set(paths) == {(), *naive.nodes}
    for index, (path, node) in enumerate(zip(paths, tree.nodes, strict=True)):
        assert tree.descend(path) == index
        assert node.depth == len(path)
        assert node.successors is naive.expanded.get(path)
        assert node.closed == (path in naive.closed)
        assert node.log_value == pytest.approx(sum(naive.claims(path)))
        assert node.log_q == pytest.approx(sum(naive.log_q(path)))
        assert [tree.nodes[child].parent for child in node.children] == [index] * len(node.children)
        if index != ROOT:
            assert node.parent < index, "parents come first"
            assert index in tree.nodes[node.parent].children
            assert (node.rank, node.claim) == (naive.nodes[path], naive.claims(path)[-1])
            assert node.log_value <= tree.nodes[node.parent].log_value
        else:
            assert (node.parent, node.rank, node.claim) == (-1, 0, 0.0)


choices = st.integers(0, 2**16)
operations = st.lists(st.tuples(st.sampled_from(["expand", "add", "add", "add", "close", "reroot"]), choices, choices))


@settings(deadline=None)
@given(choices, operations)
def test_whatever_is_done_to_a_tree_it_holds_the_right_paths_with_the_right_sums(
    seed: int, todo: list[tuple[str, int, int]]
) -> None:
    model = HashModel(seed, vocab_size=4)
    tree, naive = LiveTree(), NaiveTree(model)
    for what, first, second in todo:
        node = first % len(tree.nodes)
        path = tuple(tree.tokens(node))
        known = naive.expanded.get(path)
        if what == "expand" and known is None:
            tree.expand(node, naive.expand(path))
        elif what == "add" and known is not None and len(known):
            rank = second % len(known)
            added = tree.add(node, rank)
            naive.nodes[(*path, int(known.tokens[rank]))] = rank
            assert tree.add(node, rank) == added, "it is one already"
        elif what == "close":
            tree.close(node)
            naive.closed.add(path)
        elif what == "reroot":
            tree.reroot(node)
            naive.reroot(path)
        check(tree, naive)


def test_what_a_model_cached_stays_with_the_node() -> None:
    tree = new_tree(lambda path: successors([0.6, 0.4]))
    first, second = tree.add(ROOT, 0), tree.add(ROOT, 1)
    tree.expand(second, successors([1.0]))
    below = tree.add(second, 0)
    tree.root.row, tree.nodes[first].row, tree.nodes[second].row = 7, 8, 9
    tree.expand(below, successors([1.0]))
    tree.nodes[below].row = 10
    tree.reroot(second)
    assert [node.row for node in tree.nodes] == [9, 10]


def test_below_an_impossible_token_sums_are_right_again() -> None:
    """-inf less -inf is no number: sums are made anew, not shifted."""
    tree = new_tree(lambda path: successors([1.0, 0.0]))
    impossible = tree.add(ROOT, 1)
    tree.expand(impossible, successors([0.5, 0.5]))
    below = tree.add(impossible, 1)
    assert tree.nodes[below].log_value == -math.inf
    tree.reroot(impossible)
    assert tree.nodes[1].log_value == tree.nodes[1].log_q == math.log(0.5)


def test_a_child_is_never_worth_more_than_its_parent() -> None:
    certain = successors([1.0], claims=[1.0 + 1e-12])
    assert certain.claims[0] > 0
    tree = new_tree(lambda path: certain)
    assert tree.nodes[tree.add(ROOT, 0)].log_value == 0.0


def test_a_path_that_the_tree_has_not_got() -> None:
    tree = new_tree(lambda path: successors([0.6, 0.4]))
    tree.add(ROOT, 0)
    assert tree.descend([]) == ROOT
    assert tree.descend([1]) is None
    assert tree.descend([0, 0]) is None


def test_a_node_with_children_is_not_expanded_again() -> None:
    tree = new_tree(lambda path: successors([1.0]))
    tree.add(ROOT, 0)
    with pytest.raises(AssertionError, match="ranks of the successors"):
        tree.expand(ROOT, successors([1.0]))
