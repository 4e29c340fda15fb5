"""The candidate trie, against a model that just keeps the set of paths."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from paceline.verifier.trie import CandidateTrie, Grafted, Node, Source
from paceline.wire.tree import ROOT, DraftTree

VOCAB = 3
SOURCES = tuple(Source(drafter, strategy) for drafter in ("a", "b") for strategy in ("x", "y"))
Path = tuple[int, ...]


@st.composite
def draft_trees(draw: st.DrawFn, max_nodes: int = 8) -> DraftTree:
    num_nodes = draw(st.integers(0, max_nodes))
    return DraftTree(
        tokens=tuple(draw(st.integers(0, VOCAB - 1)) for _ in range(num_nodes)),
        parents=tuple(draw(st.integers(-1, node - 1)) for node in range(num_nodes)),
        log_confidence=tuple(-draw(st.integers(0, 8)) / 4 for _ in range(num_nodes)),
        strategy=tuple(draw(st.integers(0, 1)) for _ in range(num_nodes)),
    )


def paths_of(tree: DraftTree) -> list[Path]:
    paths: list[Path] = []
    for token, parent in zip(tree.tokens, tree.parents, strict=True):
        paths.append((*(paths[parent] if parent != ROOT else ()), token))
    return paths


def contents(trie: CandidateTrie) -> dict[Path, dict[Source, float]]:
    """Everything in a trie by path; checks the links on the way."""
    found: dict[Path, dict[Source, float]] = {}
    pending: list[tuple[Path, Node]] = [((), trie.root)]
    while pending:
        path, node = pending.pop()
        for token, child in node.children.items():
            assert (child.token, child.parent) == (token, node)
            found[*path, token] = dict(child.proposals)
            pending.append(((*path, token), child))
    return found


def prior(node: Node) -> float:
    return max(math.exp(value) for value in node.proposals.values())


class TrieMachine(RuleBasedStateMachine):
    """Grafts, commits and forgets, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.trie = CandidateTrie()
        self.model: dict[Path, dict[Source, float]] = {}
        self.committed: Path = ()

    @rule(tree=draft_trees(), drafter=st.integers(0, 1), behind=st.integers(0, 3))
    def graft(self, tree: DraftTree, drafter: int, behind: int) -> None:
        sources = SOURCES[2 * drafter : 2 * drafter + 2]
        since = self.committed[len(self.committed) - min(behind, len(self.committed)) :]
        grafted = self.trie.graft(tree, sources, since)
        paths = paths_of(tree)
        assert grafted.stale == (since != () and since not in paths)
        below = [(path[len(since) :], node) for node, path in enumerate(paths) if path[: len(since)] == since]
        below = [(path, node) for path, node in below if path]
        assert (grafted.num_nodes, grafted.num_dropped) == (len(below), 0)
        for path, node in below:
            self.model.setdefault(path, {})[sources[tree.strategy[node]]] = tree.log_confidence[node]

    @rule(tokens=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3).map(tuple))
    def advance(self, tokens: Path) -> None:
        self.trie.advance(tokens)
        self.committed += tokens
        count = len(tokens)
        self.model = {
            path[count:]: proposals for path, proposals in self.model.items() if path[:count] == tokens and path[count:]
        }

    @rule(drafter=st.sampled_from(("a", "b")))
    def forget(self, drafter: str) -> None:
        self.trie.forget(drafter)
        left = {
            path: {source: value for source, value in proposals.items() if source.drafter_id != drafter}
            for path, proposals in self.model.items()
        }
        backed = {path for path, proposals in left.items() if proposals}
        self.model = {
            path: left[path] for path in backed if all(path[:length] in backed for length in range(1, len(path)))
        }

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert contents(self.trie) == self.model
        assert self.trie.num_nodes == len(self.model)
        assert len(list(self.trie.nodes())) == len(self.model)


TestTrie = TrieMachine.TestCase
TestTrie.settings = settings(max_examples=120, stateful_step_count=12, deadline=None)


def values_by_definition(trie: CandidateTrie) -> dict[Node, float]:
    """Product of the probabilities along the path, those of siblings scaled to a sum of at most 1."""
    values: dict[Node, float] = {trie.root: 1.0}
    for node in trie.nodes():
        assert node.parent is not None
        total = sum(prior(child) for child in node.parent.children.values())
        values[node] = values[node.parent] * prior(node) / max(1.0, total)
    return values


@given(draft_trees(), draft_trees(), st.integers(0, 8), st.integers(1, 4))
def test_a_plan_has_parents_first_and_values_by_definition(one, other, max_nodes, max_depth):
    trie = CandidateTrie()
    trie.graft(one, SOURCES[:2])
    trie.graft(other, SOURCES[2:])
    planned = trie.plan(prior, max_nodes, max_depth)
    values = values_by_definition(trie)
    depths: list[int] = []
    for index, candidate in enumerate(planned):
        assert candidate.parent < index
        parent = trie.root if candidate.parent == ROOT else planned[candidate.parent].node
        assert candidate.node.parent is parent
        assert math.isclose(candidate.value, values[candidate.node])
        depths.append(1 if candidate.parent == ROOT else depths[candidate.parent] + 1)
    assert len({id(candidate.node) for candidate in planned}) == len(planned)
    reachable = [path for path in contents(trie) if len(path) <= max_depth]
    assert len(planned) == min(max_nodes, len(reachable))
    assert max(depths, default=0) <= max_depth


@settings(max_examples=60)
@given(draft_trees(7), draft_trees(3))
def test_every_prefix_of_a_plan_is_the_best_subtree_of_its_size(one, other):
    trie = CandidateTrie()
    trie.graft(one, SOURCES[:2])
    trie.graft(other, SOURCES[2:])
    values = values_by_definition(trie)
    nodes = list(trie.nodes())
    planned = trie.plan(prior, len(nodes), 64)
    for size in range(1, len(nodes) + 1):
        subtrees = (
            chosen
            for chosen in itertools.combinations(nodes, size)
            if all(node.parent is trie.root or node.parent in chosen for node in chosen)
        )
        best = max(sum(values[node] for node in chosen) for chosen in subtrees)
        assert math.isclose(sum(candidate.value for candidate in planned[:size]), best, abs_tol=1e-12)


@given(draft_trees(12), draft_trees(12), st.integers(0, 6))
def test_a_full_trie_drops_and_counts_what_does_not_fit(one, other, room):
    trie = CandidateTrie(max_nodes=room)
    for tree, sources in ((one, SOURCES[:2]), (other, SOURCES[2:])):
        before = set(contents(trie))
        grafted = trie.graft(tree, sources)
        after = set(contents(trie))
        assert before <= after <= before | set(paths_of(tree))
        assert trie.num_nodes == len(after) <= room
        assert (grafted.num_dropped > 0) <= (len(after) == room)
        if not grafted.num_dropped:
            assert after == before | set(paths_of(tree))


@given(st.lists(draft_trees(12), max_size=4), draft_trees(5), st.integers(5, 12))
def test_a_drafter_that_talks_much_leaves_room_for_the_others(noise, useful, quota):
    trie = CandidateTrie(max_nodes=4 * quota, max_drafter_nodes=quota)
    for tree in noise:
        trie.graft(tree, SOURCES[:2])
    assert trie.num_nodes <= quota
    assert trie.graft(useful, SOURCES[2:]).num_dropped == 0
    assert set(paths_of(useful)) <= set(contents(trie))


def test_a_tree_that_says_the_same_twice_is_found_by_either_branch():
    trie = CandidateTrie()
    tree = DraftTree((1, 1, 2, 0), (ROOT, ROOT, 1, 2), (-1.0,) * 4, (0,) * 4)
    assert trie.graft(tree, SOURCES, committed=(1, 2)) == Grafted(False, 1, 0)
    assert set(contents(trie)) == {(0,)}


def test_a_node_keeps_each_sources_claim_and_the_latest_of_each():
    trie = CandidateTrie()
    for confidence, strategy in ((-1.0, 0), (-2.0, 1), (-0.5, 0)):
        trie.graft(DraftTree((1,), (ROOT,), (confidence,), (strategy,)), SOURCES)
    assert contents(trie) == {(1,): {SOURCES[0]: -0.5, SOURCES[1]: -2.0}}


@given(
    draft_trees(20), draft_trees(20), st.sets(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=3).map(tuple))
)
def test_paths_that_are_not_admitted_are_left_out_with_all_below_and_never_asked_about(tree, other, forbidden):
    asked: list[Path] = []

    def admits(path) -> bool:
        asked.append(tuple(path))
        return tuple(path) not in forbidden

    trie, free = CandidateTrie(admits=admits), CandidateTrie()
    for one in (tree, other):
        trie.graft(one, SOURCES[:2])
        free.graft(one, SOURCES[:2])
    expected = {
        path: proposals
        for path, proposals in contents(free).items()
        if not any(path[: len(start)] == start for start in forbidden)
    }
    assert contents(trie) == expected
    assert trie.num_nodes == len(expected)
    assert not any(path[: len(start)] == start != path for path in asked for start in forbidden)


def test_after_a_commit_paths_begin_at_the_new_root():
    asked: list[Path] = []
    trie = CandidateTrie(admits=lambda path: asked.append(tuple(path)) or True)
    trie.graft(DraftTree((0, 1), (-1, 0), (-0.1, -0.1), (0, 0)), SOURCES[:1])
    trie.advance([0])
    trie.graft(DraftTree((0, 1, 2), (-1, 0, 1), (-0.1,) * 3, (0,) * 3), SOURCES[:1], [0])
    assert asked == [(0,), (0, 1), (1, 2)]
