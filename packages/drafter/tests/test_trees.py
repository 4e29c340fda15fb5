"""What every tree policy owes the session that drives it, and the policies that take the best nodes."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_trees import HashModel, drive, new_tree, paths, successors, worth

from paceline.drafter.live_tree import ROOT, LiveTree, Successors
from paceline.drafter.strategies.base import Budget
from paceline.drafter.trees import TREES
from paceline.drafter.trees.base import Shape, TreePolicy
from paceline.drafter.trees.chain import Chain
from paceline.drafter.trees.eagle2 import Eagle2
from paceline.drafter.trees.opt_tree import DELTA, OptTree
from paceline.drafter.trees.static import acceptance, template

seeds = st.integers(0, 2**16)
shapes = st.builds(Shape, st.integers(1, 5), st.integers(1, 6))
budgets = st.builds(Budget, st.integers(0, 12), st.integers(0, 7), st.sampled_from([0.0, 1e-300, 0.05, 0.4, 1.0]))


def check_selection(tree: LiveTree, selected: list[int], budget: Budget) -> None:
    assert len(set(selected)) == len(selected) <= budget.max_nodes
    assert ROOT not in selected
    for place, node in enumerate(selected):
        it = tree.nodes[node]
        assert it.parent == ROOT or it.parent in selected[:place]
        assert it.depth <= budget.max_depth
        assert math.exp(it.log_value) >= budget.least_value * (1 - 1e-12)
        assert math.exp(it.log_value) > 0


def grow_by_chance(tree: LiveTree, model: HashModel, before: list[int], choices: list[int]) -> None:
    """What other strategies may have left in a tree: any ranks, expanded or not, somewhere in it."""
    for choice in choices:
        node = choice % len(tree.nodes)
        known = tree.nodes[node].successors
        if known is None:
            tree.expand(node, model([*before, *tree.tokens(node)]))
        elif len(known):
            tree.add(node, (choice // 7) % len(known))


def closing(seed: int) -> Callable[[int], bool]:
    """A stopping rule that closes a fifth of all nodes, or none."""
    return lambda node: node % 5 == seed % 9


@pytest.mark.parametrize("name", TREES)
@settings(max_examples=150, deadline=None)
@given(seeds, shapes, st.lists(st.tuples(budgets, st.lists(seeds, max_size=25), seeds, seeds), min_size=1, max_size=3))
def test_policies_end_in_time_and_select_a_tree_within_bounds_from_wherever_they_start(
    name: str, seed: int, shape: Shape, rounds: list[tuple[Budget, list[int], int, int]]
) -> None:
    policy = TREES[name](shape)
    model = HashModel(seed, vocab_size=5, draws=policy.draws)
    tree, before = new_tree(model), list[int]()
    for budget, choices, stubbornness, next_root in rounds:
        grow_by_chance(tree, model, before, choices)
        expanded = {id(node): node.successors for node in tree.nodes if node.successors is not None}
        twin = copy.deepcopy(tree)
        for each in (tree, twin):
            drive(policy, each, shape, budget, model, closing(stubbornness), before)
        selected = list(policy.select(tree, budget))
        assert all(node.successors is expanded.get(id(node), node.successors) for node in tree.nodes)
        check_selection(tree, selected, budget)
        assert not policy.grow(tree, budget), "asks again after it was done"
        assert paths(tree, selected) == paths(twin, policy.select(twin, budget)), "does not depend on the tree alone"
        root = next_root % len(tree.nodes)
        before += tree.tokens(root)
        tree.reroot(root)
        if tree.root.successors is None:
            tree.expand(ROOT, model(before))


@pytest.mark.parametrize("name", TREES)
def test_every_policy_proposes_what_is_certain(name: str) -> None:
    shape, budget = Shape(width=3, depth=5), Budget(max_nodes=5, max_depth=9)
    policy = TREES[name](shape)
    tree = new_tree(lambda path: successors([1.0, 0.0, 0.0]))
    drive(policy, tree, shape, budget, lambda path: successors([1.0, 0.0, 0.0]))
    assert paths(tree, policy.select(tree, budget)) == [(0,) * depth for depth in range(1, 6)]


@pytest.mark.parametrize("name", TREES)
def test_a_closed_node_does_not_keep_others_from_going_on(name: str) -> None:
    shape, budget = Shape(width=2, depth=6), Budget(max_nodes=30, max_depth=9)
    policy = TREES[name](shape)
    tree = new_tree(lambda path: successors([0.5, 0.45]))
    drive(policy, tree, shape, budget, lambda path: successors([0.6, 0.35]), lambda node: tree.tokens(node) == [0])
    depth = max(len(path) for path in paths(tree, policy.select(tree, budget)))
    if name == "chain":
        assert depth == 1
    elif name == "static":
        assert depth == 2, "the template is deep below the first successor only"
    else:
        assert depth >= 5


def subtrees(tree: LiveTree, size: int) -> list[tuple[int, ...]]:
    """All trees of at most that many nodes that hang on the root."""
    known = range(1, len(tree.nodes))
    return [
        chosen
        for num in range(size + 1)
        for chosen in itertools.combinations(known, num)
        if all(tree.nodes[node].parent == ROOT or tree.nodes[node].parent in chosen for node in chosen)
    ]


@pytest.mark.parametrize("policy", [Eagle2(Shape()), OptTree(Shape())])
@settings(deadline=None)
@given(seeds, st.lists(seeds, max_size=18), st.integers(0, 4), st.integers(0, 4))
def test_no_selection_of_that_size_is_worth_more(
    policy: Eagle2 | OptTree, seed: int, choices: list[int], max_nodes: int, max_depth: int
) -> None:
    model = HashModel(seed, vocab_size=4)
    tree = new_tree(model)
    grow_by_chance(tree, model, [], choices)
    rivals = [
        worth(tree, rival)
        for rival in subtrees(tree, max_nodes)
        if all(tree.nodes[node].depth <= max_depth for node in rival)
    ]
    assert worth(tree, list(policy.select(tree, Budget(max_nodes, max_depth)))) == pytest.approx(max(rivals))


@pytest.mark.parametrize("policy", [OptTree(Shape(width=8, depth=3), delta=-1.0), Eagle2(Shape(width=8, depth=3))])
@settings(deadline=None)
@given(seeds, st.integers(0, 5))
def test_nothing_is_missed_by_expanding_only_what_would_be_selected(
    policy: Eagle2 | OptTree, seed: int, max_nodes: int
) -> None:
    """The best tree of all, from the whole binary tree of depth 3, by brute force."""
    model, budget = HashModel(seed, vocab_size=2), Budget(max_nodes, 3)
    whole = new_tree(model)
    for node in range(20):
        if node < len(whole.nodes) and whole.nodes[node].depth < 3:
            if node != ROOT:
                whole.expand(node, model(whole.tokens(node)))
            for rank in range(len(whole.nodes[node].successors or ())):
                whole.add(node, rank)
    shape, tree = Shape(width=8, depth=3), new_tree(model)
    drive(policy, tree, shape, budget, model)
    best = max(worth(whole, rival) for rival in subtrees(whole, max_nodes))
    assert worth(tree, list(policy.select(tree, budget))) == pytest.approx(best)


@pytest.mark.parametrize("make", [lambda shape: OptTree(shape, delta=0.0), Eagle2])
@settings(deadline=None)
@given(seeds, shapes, st.integers(0, 8))
def test_only_what_would_be_selected_is_expanded(
    make: Callable[[Shape], TreePolicy], seed: int, shape: Shape, max_nodes: int
) -> None:
    model, budget = HashModel(seed, vocab_size=5), Budget(max_nodes, 9)
    policy, tree = make(shape), new_tree(model)
    while wanted := policy.grow(tree, budget):
        assert set(wanted) <= set(policy.select(tree, budget))
        for node in wanted:
            tree.expand(node, model(tree.tokens(node)))


@pytest.mark.parametrize(("acceptance_rate", "depth"), [(0.9, 8), (0.5, 3), (0.4, 2), (0.1, 1)])
def test_opt_tree_stops_when_a_layer_adds_too_little(acceptance_rate: float, depth: int) -> None:
    """Layer d of a chain adds p^d: expanded are nodes down to the first that adds no more than delta."""
    shape, budget = Shape(width=1, depth=8), Budget(32, 32)
    tree, policy = new_tree(lambda path: successors([acceptance_rate])), OptTree(shape)
    passes = drive(policy, tree, shape, budget, lambda path: successors([acceptance_rate]))
    gains = [acceptance_rate**layer for layer in range(1, 8)]
    assert passes == len([gain for gain in gains if gain > DELTA])
    assert len(tree) == passes + 1 == depth


@settings(deadline=None)
@given(seeds, st.integers(1, 4), st.integers(1, 5))
def test_eagle2_expands_the_best_of_each_layer(seed: int, width: int, depth: int) -> None:
    model, shape = HashModel(seed, vocab_size=5), Shape(width, depth)
    tree = new_tree(model)
    drive(Eagle2(shape), tree, shape, Budget(99, 99), model)
    layer = [ROOT]
    for level in range(1, depth + 1):
        found = [child for node in layer for child in tree.nodes[node].children]
        layer = [node for node in found if tree.nodes[node].successors is not None]
        assert len(layer) == (min(width, len(found)) if level < depth else 0)
        left = [tree.nodes[node].log_value for node in found if node not in layer]
        assert not layer or max(left, default=-math.inf) <= min(tree.nodes[node].log_value for node in layer)


def test_chain_follows_the_first_successor_and_no_further_than_it_may_propose() -> None:
    shape, budget = Shape(width=4, depth=8), Budget(max_nodes=3, max_depth=9)
    policy, tree = Chain(shape), new_tree(likely)
    assert drive(policy, tree, shape, budget, likely) == 2
    assert paths(tree, policy.select(tree, budget)) == [(0,), (0, 0), (0, 0, 0)]
    assert not policy.grow(new_tree(lambda path: successors([])), budget)


def likely(path: Sequence[int]) -> Successors:
    """Much as in any context, but never the same."""
    first = 0.5 + 0.01 * (sum(path) % 10)
    return successors([first, 0.3 * (1 - first), 0.2 * (1 - first)])


def test_static_is_the_same_shape_for_every_context() -> None:
    shape, budget = Shape(width=3, depth=4), Budget(max_nodes=9, max_depth=9)
    policy, found = TREES["static"](shape), set()
    for salt in range(10):
        before = [salt]
        tree = LiveTree()
        tree.expand(ROOT, likely(before))
        drive(policy, tree, shape, budget, likely, before=before)
        found.add(tuple(paths(tree, policy.select(tree, budget))))
    assert len(found) == 1
    assert len(found.pop()) == 9


def template_worth(plan: tuple[tuple[int, int], ...]) -> float:
    values = [1.0]
    for parent, rank in plan:
        values.append(values[parent] * acceptance(rank))
    return sum(values[1:])


@pytest.mark.parametrize("num_nodes", range(6))
def test_no_template_of_that_size_is_worth_more(num_nodes: int) -> None:
    width, depth = 3, 3
    ranks = [path for size in range(1, depth + 1) for path in itertools.product(range(width), repeat=size)]
    rivals = [
        sum(math.prod(acceptance(rank) for rank in path) for path in chosen)
        for chosen in itertools.combinations(ranks, num_nodes)
        if all(len(path) == 1 or path[:-1] in chosen for path in chosen)
    ]
    assert template_worth(template(width, depth, num_nodes)) == pytest.approx(max(rivals))


@settings(deadline=None)
@given(st.integers(0, 5), st.integers(0, 6), st.integers(0, 40))
def test_templates_are_trees_within_bounds_and_beginnings_of_larger_ones(width: int, depth: int, size: int) -> None:
    plan = template(width, depth, size)
    assert plan == template(width, depth, 60)[: len(plan)]
    assert len(plan) == size or plan == template(width, depth, 60)
    depths = [0]
    for place, (parent, rank) in enumerate(plan, start=1):
        assert parent < place
        assert rank < width
        assert rank == 0 or (parent, rank - 1) in plan[: place - 1]
        depths.append(depths[parent] + 1)
    assert max(depths) <= depth
    for level in range(1, depth):
        assert len({parent for parent, _ in plan if depths[parent] == level}) <= width


def test_recycled_successors_are_accepted_as_measured() -> None:
    measured = [0.40, 0.09, 0.05, 0.03, 0.02]
    assert [acceptance(rank, top=0.4) for rank in range(5)] == pytest.approx(measured, abs=0.006)
