"""The drafter's side of one Draft stream, without the stream: what it is told goes in, drafts come out.

    opened / committed / closed  ->  Sessions  ->  next_draft()
                                       │   ▲
                                       ▼   │ delivered
                                 lanes: models, each in its own thread

A session is due for a draft when its context has changed since the last one. Drafts of strategies that need no model
are made when they can be sent, not when a commit comes in: so commits that pile up are answered by one draft, for the
latest of them. Models answer when they are ready; of a model's drafts only the latest waits to be sent. The last draft
that a context gets is marked final.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from paceline.drafter.calibration import Calibration
from paceline.drafter.coupling import coupled
from paceline.drafter.memory import Memory, Scope, ScopeKey
from paceline.drafter.merge import merge
from paceline.drafter.model_worker import ModelDraft
from paceline.drafter.opening import Opening
from paceline.drafter.pace import Pace
from paceline.drafter.strategies.base import Budget, Candidates, Commit, Context, Proposer
from paceline.drafter.watch import NOBODY, SessionWatch, Watch
from paceline.wire.digest import digest_of, extend
from paceline.wire.tree import Anchor, DraftTree

MAX_SESSIONS = 4096
MAX_CONTEXT_TOKENS = 1 << 20
MAX_LIVE_TOKENS = 1 << 22  # of all sessions of a stream together
CHOICE = 2  # candidates asked of a strategy for each that is sent, where the request's noise chooses among them
REMEMBERED_STATES = 16  # of a session, for models that answer late


@dataclass(frozen=True, slots=True)
class Terms:
    """What a verifier's Welcome settles for the stream."""

    verifier_id: str
    model: str
    tokenizer_hash: str
    vocab_size: int
    max_tree_nodes: int
    max_tree_depth: int
    commit_top_k: int
    protocol_minor: int = 0
    feature_layers: tuple[int, ...] = ()
    hidden_size: int = 0

    @property
    def feature_width(self) -> int:
        """Numbers that will be told of a position."""
        return len(self.feature_layers) * self.hidden_size


@dataclass(frozen=True, slots=True)
class Draft:
    """A tree, where it hangs, and how long it took to make. final: all that this drafter has to say for now."""

    anchor: Anchor
    tree: DraftTree
    draft_us: int
    final: bool


class Lane(Protocol):
    """A model's part in the stream; see `paceline.drafter.lane`."""

    def opened(self, opening: Opening, budget: Budget) -> None: ...

    def committed(self, commit: Commit) -> None: ...

    def closed(self, session_id: int) -> None: ...

    def detach(self, session_ids: set[int]) -> None: ...


@dataclass(slots=True)
class _Session:
    context: Context
    digest: int
    budget: Budget
    scope: Scope
    remembers: bool
    proposers: list[Proposer]
    watch: SessionWatch
    # The last draft, as the strategies made it, and the context's length then: what follows shows what was
    # right.
    proposed: list[Candidates] = field(default_factory=list)
    proposed_at: int = 0
    lanes: set[int] = field(default_factory=set)  # models that draft for it
    awaited: set[int] = field(default_factory=set)  # of those, the ones that have not answered the latest context
    earlier: OrderedDict[int, int] = field(default_factory=OrderedDict)  # digests of the latest contexts, by length

    @property
    def drawn(self) -> bool:
        """Whether the target draws its tokens."""
        return self.context.sampling.temperature > 0.0


class Sessions:
    """All sessions of one stream. Not thread-safe, does no I/O.

    Args:
        terms: what the verifier said in Welcome.
        memory: of the process.
        calibrations: one per strategy of the memory, of the process.
        max_nodes: the drafter's own bound on a tree.
        clock: seconds, for draft_us.
        pace: of this verifier; kept current here by commits.
        watch: is told of all that happens.
    """

    def __init__(
        self,
        terms: Terms,
        memory: Memory,
        calibrations: Sequence[Calibration],
        max_nodes: int,
        clock: Callable[[], float],
        pace: Pace | None = None,
        watch: Watch = NOBODY,
    ) -> None:
        self.watch = watch
        self.tally: Counter[str] = Counter()
        self.notify: Callable[[], None] = lambda: None  # called when a model has delivered something
        self.pace = pace or Pace()
        self._terms = terms
        self._memory = memory
        self._calibrations = calibrations
        self._max_nodes = min(max_nodes, terms.max_tree_nodes)
        self._clock = clock
        self._lanes: dict[int, Lane] = {}
        self._sessions: dict[int, _Session] = {}
        self._due: dict[int, None] = {}  # in the order in which they became due: nobody is served twice before others
        self._ready: dict[tuple[int, int], Draft] = {}  # by session and lane: drafts of models that wait to be sent
        self._live_tokens = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def note(self, what: str) -> None:
        """Counts what went otherwise than planned."""
        self.tally[what] += 1
        self.watch.noted(what)

    def engage(self, lanes: Mapping[int, Lane]) -> None:
        """Models that draft too; before the first session. Lane i's strategy is Hello's i-th after the memory's."""
        self._lanes = dict(lanes)

    def detach(self) -> None:
        """The stream has ended: models need not think of its sessions any more."""
        for lane in self._lanes.values():
            lane.detach(set(self._sessions))
        for session in self._sessions.values():
            session.watch.ended()

    @property
    def is_due(self) -> bool:
        """`next_draft` may have one."""
        return bool(self._due or self._ready)

    def opened(self, opening: Opening) -> None:
        """A new session, or one announced anew: what is known of it is replaced."""
        self.drop(opening.session_id)
        size = len(opening.tokens)
        if not size or digest_of(opening.tokens) != opening.digest:
            self.note("wrong_digest")
            return
        if len(self._sessions) >= MAX_SESSIONS or not self._has_room(size, size):
            self.note("no_room")
            return
        context = Context(list(opening.tokens), opening.prompt_tokens, opening.sampling)
        terms = self._terms
        scope = self._memory.scope(ScopeKey(terms.model, terms.tokenizer_hash, terms.vocab_size, opening.memory_key))
        if opening.shadow:
            scope = tuple(strategy.aside() for strategy in scope)
        max_nodes = min(opening.max_nodes or self._max_nodes, self._max_nodes)
        session = self._sessions[opening.session_id] = _Session(
            context=context,
            digest=opening.digest,
            budget=Budget(max_nodes, terms.max_tree_depth, opening.least_value),
            scope=scope,
            remembers=bool(opening.memory_key) and not opening.shadow,
            proposers=[strategy.begin(context) for strategy in scope],
            watch=self.watch.opened(opening),
            lanes=set(self._lanes),
            awaited=set(self._lanes),
        )
        for lane in self._lanes.values():
            lane.opened(opening, session.budget)
        self._live_tokens += size
        self._due[opening.session_id] = None
        self.tally["opened"] += 1

    def committed(self, commit: Commit) -> None:
        """A session goes on. If its context is no longer the verifier's it is dropped: it can't catch up."""
        session = self._sessions.get(commit.session_id)
        if session is None:
            self.note("unknown_session")
            return
        tokens = session.context.tokens
        digest = extend(session.digest, commit.tokens)
        if len(tokens) + len(commit.tokens) != commit.length or digest != commit.digest:
            self.note("wrong_digest")
            self.drop(commit.session_id)
            return
        if not self._has_room(len(commit.tokens), commit.length):
            self.note("no_room")
            self.drop(commit.session_id)
            return
        session.earlier[len(tokens)] = session.digest
        if len(session.earlier) > REMEMBERED_STATES:
            session.earlier.popitem(last=False)
        tokens.extend(commit.tokens)
        session.digest = digest
        session.awaited = set(session.lanes)
        self._live_tokens += len(commit.tokens)
        session.watch.committed(len(commit.tokens))
        self.pace.observe_step(commit.step_s)
        for lane in session.lanes:
            self._lanes[lane].committed(commit)
        for proposer in session.proposers:
            proposer.observe(commit)
        self._due[commit.session_id] = None

    def closed(self, session_id: int) -> None:
        """A session is complete; it is remembered if it may be."""
        session = self.drop(session_id)
        if session is None:
            return
        self._resolve(session)
        if session.remembers:
            for proposer in session.proposers:
                proposer.end()
            self._memory.settle()

    def drop(self, session_id: int) -> _Session | None:
        """Forgets a session that will not be complete."""
        session = self._sessions.pop(session_id, None)
        self._due.pop(session_id, None)
        if session is None:
            return None
        for lane in session.lanes:
            self._ready.pop((session_id, lane), None)
            self._lanes[lane].closed(session_id)
        self._live_tokens -= len(session.context.tokens)
        session.watch.ended()
        return session

    def delivered(self, lane: int, model_draft: ModelDraft) -> None:
        """A model's draft. One for a context that is no longer the latest is sent too: if it holds what was committed
        since, the verifier takes the rest, and in any case it learns how long the model takes."""
        session_id = model_draft.key[1]
        session = self._sessions.get(session_id)
        if session is None:
            return
        least_value = 0.0 if model_draft.ahead else session.budget.least_value
        budget = Budget(self._terms.max_tree_nodes, session.budget.max_depth, least_value)
        tree = merge([model_draft.candidates], budget, len(self._calibrations) + lane)
        if not model_draft.ahead:
            self.pace.observe_draft(model_draft.draft_s)
        session.watch.drafted(len(self._calibrations) + lane, len(tree), model_draft.draft_s)
        if model_draft.gone:
            session.lanes.discard(lane)
        is_late = not model_draft.gone and model_draft.length != len(session.context.tokens)
        if is_late:
            self.note("late")
            digest = session.earlier.get(model_draft.length)
            if digest is None:
                return
            anchor = Anchor(session_id, model_draft.length, digest)
            draft = Draft(anchor, tree, int(model_draft.draft_s * 1e6), final=True)
        else:
            session.awaited.discard(lane)
            draft = self._draft(session_id, session, tree, model_draft.draft_s)
        if len(tree) or draft.final:
            self._ready[session_id, lane] = draft
            self.notify()

    def next_draft(self) -> Draft | None:
        """A draft that is to be sent now, None if there is none. It may be an empty tree, if it is final."""
        while self._due:
            session_id = next(iter(self._due))
            del self._due[session_id]
            draft = self._quick_draft(session_id)
            if len(draft.tree) or draft.final:
                return draft
        if not self._ready:
            return None
        key = next(iter(self._ready))
        return self._ready.pop(key)

    def _quick_draft(self, session_id: int) -> Draft:
        """By all strategies that need no model."""
        session = self._sessions[session_id]
        started = self._clock()
        self._resolve(session)
        context, drawn = session.context, session.drawn
        budget = self.pace.extended(session.budget, self._terms.max_tree_nodes)
        # The noise can only choose among what it is given.
        wider = replace(budget, max_nodes=CHOICE * budget.max_nodes) if drawn else budget
        session.proposed = []
        session.watch.drafting()
        for index, proposer in enumerate(session.proposers):
            session.proposed.append(proposer.draft(wider))
            session.watch.drafted(index, len(session.proposed[-1]))
        session.proposed_at = len(context.tokens)
        trees: list[Candidates] = []
        for strategy, calibration, tree in zip(session.scope, self._calibrations, session.proposed, strict=True):
            corrected = calibration.corrected(tree, drawn)
            trees.append(coupled(corrected, context.sampling, len(context.tokens)) if strategy.couples else corrected)
        draft = self._draft(session_id, session, merge(trees, budget), self._clock() - started)
        # A model may have been faster; then its draft, which is to be sent next, is the final one.
        is_last = not any(waiting == session_id for waiting, _ in self._ready)
        return replace(draft, final=draft.final and is_last)

    def _draft(self, session_id: int, session: _Session, tree: DraftTree, draft_s: float) -> Draft:
        self.tally["drafts"] += 1
        self.tally["draft_tokens"] += len(tree)
        session.watch.sent(len(tree))
        anchor = Anchor(session_id, len(session.context.tokens), session.digest)
        return Draft(anchor, tree, int(draft_s * 1e6), final=not session.awaited)

    def _resolve(self, session: _Session) -> None:
        """Tells the calibrations what came of the last draft."""
        followed = session.context.tokens[session.proposed_at :] if session.proposed else []
        if followed:
            for calibration, tree in zip(self._calibrations, session.proposed, strict=True):
                calibration.resolve(tree, followed, session.drawn)

    def _has_room(self, num_tokens: int, length: int) -> bool:
        return length <= MAX_CONTEXT_TOKENS and self._live_tokens + num_tokens <= MAX_LIVE_TOKENS
