"""The drafter's side of a Draft stream, without a stream; and the walls between tenants."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.drafter import session as session_module
from paceline.drafter.calibration import Calibration
from paceline.drafter.memory import MAX_SCOPES, Memory, ScopeKey
from paceline.drafter.opening import Opening
from paceline.drafter.session import MAX_SESSIONS, Draft, Sessions, Terms
from paceline.drafter.strategies import STRATEGIES
from paceline.drafter.strategies.base import Commit, TopK
from paceline.wire.digest import digest_of
from paceline.wire.tree import Anchor, DraftTree

VOCAB = 1000
TERMS = Terms("v", "model", "hash", VOCAB, max_tree_nodes=24, max_tree_depth=6, commit_top_k=8)
NAMES = tuple(STRATEGIES)


class Clock:
    """Each look at it is 250 µs later."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 250e-6
        return self.now


@dataclass
class Desk:
    """Sessions, and a verifier's view of them."""

    memory: Memory = field(default_factory=lambda: Memory(NAMES, 10_000))
    names: tuple[str, ...] = NAMES
    terms: Terms = TERMS
    max_nodes: int = 32
    texts: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calibrations = [Calibration() for _ in self.names]
        self.sessions = Sessions(self.terms, self.memory, self.calibrations, self.max_nodes, Clock())

    def open(
        self, session_id: int, tokens: list[int], key: bytes = b"", max_nodes: int = 0, shadow: bool = False
    ) -> None:
        self.texts[session_id] = list(tokens)
        digest = digest_of(tokens)
        opening = Opening(
            session_id, tuple(tokens), digest, len(tokens), memory_key=key, max_nodes=max_nodes, shadow=shadow
        )
        self.sessions.opened(opening)

    def commit(self, session_id: int, tokens: list[int], top_k: TopK | None = None) -> None:
        text = self.texts[session_id]
        text += tokens
        self.sessions.committed(Commit(session_id, tuple(tokens), len(text), digest_of(text), top_k))

    def anchor(self, session_id: int) -> Anchor:
        text = self.texts[session_id]
        return Anchor(session_id, len(text), digest_of(text))

    def draft(self) -> Draft:
        draft = self.sessions.next_draft()
        assert draft is not None
        return draft


def first_tokens(draft: Draft) -> set[int]:
    return {token for token, parent in zip(draft.tree.tokens, draft.tree.parents, strict=True) if parent == -1}


LOOP = [1, 2, 3, 4] * 5


def test_a_draft_follows_the_opening_and_each_commit_and_hangs_at_the_new_end() -> None:
    desk = Desk()
    assert desk.sessions.next_draft() is None
    desk.open(7, LOOP)
    draft = desk.draft()
    assert draft.anchor == desk.anchor(7)
    assert 1 in first_tokens(draft)
    assert draft.draft_us == 250
    assert desk.sessions.next_draft() is None
    desk.commit(7, [1, 2])
    draft = desk.draft()
    assert draft.anchor == desk.anchor(7)
    assert 3 in first_tokens(draft)


def test_joining_late_is_like_having_been_there() -> None:
    early, late = Desk(), Desk()
    early.open(7, LOOP)
    early.commit(7, [1, 2])
    late.open(7, [*LOOP, 1, 2])
    assert early.draft() == late.draft()


def test_a_newer_commit_supersedes_and_only_the_latest_is_drafted_for() -> None:
    desk = Desk()
    desk.open(7, LOOP)
    for token in (1, 2, 3):
        desk.commit(7, [token])
    assert desk.draft().anchor == desk.anchor(7)
    assert not desk.sessions.is_due


def test_having_nothing_to_propose_is_said_with_an_empty_tree() -> None:
    desk = Desk()
    desk.open(7, [5])
    assert desk.draft().tree == DraftTree()


@pytest.mark.parametrize("fault", ["digest", "gap", "repeat"])
def test_a_session_that_is_not_the_verifiers_is_dropped_and_counted(fault: str) -> None:
    desk = Desk()
    desk.open(7, LOOP)
    desk.open(8, LOOP)
    text = [*LOOP, 1]
    commits = {
        "digest": Commit(7, (1,), len(text), digest_of(text) ^ 1),
        "gap": Commit(7, (1,), len(text) + 1, digest_of(text)),
        "repeat": Commit(7, (), len(LOOP) - 1, digest_of(LOOP)),
    }
    desk.sessions.committed(commits[fault])
    assert desk.sessions.tally["wrong_digest"] == 1
    assert len(desk.sessions) == 1
    desk.sessions.committed(Commit(7, (1,), len(text), digest_of(text)))
    assert desk.sessions.tally["unknown_session"] == 1
    assert desk.draft().anchor.session_id == 8, "the others go on"
    assert not desk.sessions.is_due


def test_an_opening_with_a_wrong_digest_is_not_taken() -> None:
    desk = Desk()
    desk.sessions.opened(Opening(7, (1, 2), digest_of([1, 3])))
    assert len(desk.sessions) == 0
    assert not desk.sessions.is_due


def test_an_opening_of_a_session_that_is_open_replaces_it() -> None:
    desk = Desk()
    desk.open(7, LOOP)
    desk.open(7, [5, 6, 5])
    assert len(desk.sessions) == 1
    assert desk.draft().anchor == desk.anchor(7)


def test_closing_ends_drafting() -> None:
    desk = Desk()
    desk.open(7, LOOP)
    desk.sessions.closed(7)
    assert desk.sessions.next_draft() is None
    assert len(desk.sessions) == 0
    desk.sessions.closed(7)  # no harm


def test_sessions_take_turns() -> None:
    desk = Desk()
    for session_id in (1, 2, 3):
        desk.open(session_id, LOOP)
    assert desk.draft().anchor.session_id == 1
    desk.commit(1, [1])
    desk.commit(2, [1])
    assert [desk.draft().anchor.session_id for _ in range(3)] == [2, 3, 1]


@pytest.mark.parametrize(("own", "verifiers", "sessions", "most"), [(32, 24, 0, 24), (5, 24, 9, 5), (32, 24, 3, 3)])
def test_trees_keep_to_the_smallest_bound(own: int, verifiers: int, sessions: int, most: int) -> None:
    rng = np.random.default_rng(1)
    terms = Terms("v", "model", "hash", VOCAB, max_tree_nodes=verifiers, max_tree_depth=4, commit_top_k=8)
    desk = Desk(terms=terms, max_nodes=own)
    desk.open(7, rng.integers(0, 6, 400).tolist(), max_nodes=sessions)
    tree = desk.draft().tree
    assert len(tree) == most
    depths: list[int] = []
    for parent in tree.parents:
        depths.append(1 if parent == -1 else depths[parent] + 1)
    assert max(depths) <= 4


def test_confidences_learn_from_what_is_committed() -> None:
    desk = Desk()
    claimed: list[float] = []
    for session_id in range(60):
        desk.open(session_id, LOOP)
        tree = desk.draft().tree
        claimed.append(tree.log_confidence[tree.tokens.index(1)])
        desk.commit(session_id, [500])  # what follows is never what was proposed
        desk.draft()
    assert claimed[-1] < claimed[0] + math.log(0.5)
    assert claimed == sorted(claimed, reverse=True)


def test_bounds_on_sessions_and_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "MAX_SESSIONS", 3)
    monkeypatch.setattr(session_module, "MAX_CONTEXT_TOKENS", 25)
    monkeypatch.setattr(session_module, "MAX_LIVE_TOKENS", 50)
    assert MAX_SESSIONS == 4096
    desk = Desk()
    desk.open(1, [1] * 26)
    assert len(desk.sessions) == 0
    desk.open(1, [1] * 20)
    desk.open(2, [1] * 20)
    desk.open(3, [1] * 20)
    assert len(desk.sessions) == 2
    desk.commit(1, [1] * 6)
    assert len(desk.sessions) == 1, "longer than a context may be"
    for session_id in (4, 5, 6):
        desk.open(session_id, [1])
    assert len(desk.sessions) == 3
    assert desk.sessions.tally["no_room"] == 4


# memory between sessions


def test_closed_sessions_are_drawn_upon_under_the_same_key_only() -> None:
    desk = Desk()
    desk.open(1, [10, 11, 12, 13], key=b"a")
    desk.sessions.closed(1)
    for session_id, key, found in ((2, b"a", {12}), (3, b"b", set()), (4, b"", set())):
        desk.open(session_id, [10, 11], key=key)
        assert first_tokens(desk.draft()) - {11} == found


def test_nothing_is_remembered_of_a_session_without_key() -> None:
    desk = Desk()
    desk.open(1, [10, 11, 12, 13])
    desk.sessions.closed(1)
    desk.open(2, [10, 11])
    assert first_tokens(desk.draft()) == set()
    assert desk.memory.num_scopes == 0


def test_a_shadow_session_uses_what_is_remembered_and_is_not_remembered() -> None:
    desk = Desk()
    desk.open(1, [10, 11, 12, 13], key=b"a")
    desk.sessions.closed(1)
    remembered = desk.memory.num_remembered
    desk.open(2, [10, 11], key=b"a", shadow=True)
    assert 12 in first_tokens(desk.draft())
    desk.commit(2, [20, 10, 11, 21])
    desk.sessions.closed(2)
    assert desk.memory.num_remembered == remembered
    desk.open(3, [10, 11], key=b"a")
    assert first_tokens(desk.draft()) - {11} == {12}


def test_an_interrupted_session_is_not_remembered_as_text() -> None:
    desk = Desk()
    desk.open(1, [10, 11, 12, 13], key=b"a")
    desk.sessions.drop(1)
    assert desk.memory.num_remembered == 0


def test_memory_of_another_model_is_another_memory() -> None:
    memory = Memory(NAMES, 1000)
    scopes = [
        memory.scope(ScopeKey(model, tokenizer, size, b"a"))
        for model, tokenizer, size in (("m", "h", 50), ("n", "h", 50), ("m", "i", 50), ("m", "h", 51))
    ]
    assert len({id(scope) for scope in scopes}) == 4
    assert memory.scope(ScopeKey("m", "h", 50, b"a")) is scopes[0]


def test_memory_is_bounded_over_all_tenants_and_the_least_recently_used_leaves() -> None:
    names = ("suffix", "recycling")
    desk = Desk(memory=Memory(names, 2000), names=names)
    for tenant in range(12):
        for _ in range(3):
            desk.open(tenant, list(range(300)), key=bytes([tenant]))
            desk.sessions.closed(tenant)
            assert desk.memory.num_remembered <= 2000
        desk.open(100, [5], key=bytes([0]))  # keeps the first in use
        desk.sessions.drop(100)
    assert 2 <= desk.memory.num_scopes < 12
    survivors = []
    for tenant in (0, 1, 11):
        desk.open(tenant, [5, 6], key=bytes([tenant]))
        desk.draft()
        desk.commit(tenant, [7])
        survivors.append(8 in first_tokens(desk.draft()))
    assert survivors == [True, False, True]


def test_the_strategies_of_one_tenant_share_the_bound_and_do_not_push_themselves_out() -> None:
    desk = Desk(memory=Memory(NAMES, 3000))
    for session_id in range(40):
        desk.open(session_id, [5, 6, *range(session_id, session_id + 200)], key=b"a")
        desk.draft()
        desk.sessions.closed(session_id)
        assert 0 < desk.memory.num_remembered <= 3000
        assert desk.memory.num_scopes == 1


def test_the_number_of_tenants_is_bounded() -> None:
    memory = Memory(NAMES, 1_000_000)
    for tenant in range(MAX_SCOPES + 10):
        memory.scope(ScopeKey("m", "h", 50, tenant.to_bytes(2, "big")))
    assert memory.num_scopes == MAX_SCOPES


def test_a_drafter_without_memory_remembers_nothing() -> None:
    desk = Desk(memory=Memory(NAMES, 0))
    desk.open(1, [10, 11, 12], key=b"a")
    desk.sessions.closed(1)
    assert desk.memory.num_scopes == 0


SPAN = 10
TENANTS = [b"a", b"b", b"c", b""]


@st.composite
def traffic(draw: st.DrawFn) -> list[tuple[str, int, list[int]]]:
    """Steps (what, session, offsets). Session s belongs to tenant s % 4; each that has no key is its own tenant."""
    offsets = st.lists(st.integers(0, SPAN - 1), min_size=1, max_size=12)
    steps = st.tuples(st.sampled_from(["open", "commit", "draft", "close"]), st.integers(0, 11), offsets)
    return draw(st.lists(steps, min_size=5, max_size=60))


@given(traffic(), st.integers(200, 4000))
def test_no_draft_holds_a_token_of_another_tenant(steps: list[tuple[str, int, list[int]]], max_tokens: int) -> None:
    """Tenants speak in ranges of token ids that do not overlap: one foreign token would show."""
    desk = Desk(memory=Memory(NAMES, max_tokens))
    num_opened = 0
    base: dict[int, int] = {}

    def check(draft: Draft) -> None:
        start = base[draft.anchor.session_id]
        assert all(start <= token < start + SPAN for token in draft.tree.tokens)

    for what, session_id, offsets in steps:
        key = TENANTS[session_id % 4]
        if what == "open":
            num_opened += 1
            base[session_id] = SPAN * (TENANTS.index(key) if key else 3 + num_opened)
            desk.open(session_id, [base[session_id] + offset for offset in offsets], key=key)
        elif session_id not in base:
            continue
        elif what == "commit":
            tokens = [base[session_id] + offset for offset in offsets]
            rows = TopK(np.array(tokens), np.array([[tokens[0], base[session_id] + 1]] * len(tokens)))
            desk.commit(session_id, tokens, rows)
        elif what == "close":
            desk.sessions.closed(session_id)
            del base[session_id]
        elif desk.sessions.is_due:
            check(desk.draft())
    while desk.sessions.is_due:
        check(desk.draft())
