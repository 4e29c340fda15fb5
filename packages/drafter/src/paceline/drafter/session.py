"""The drafter's side of one Draft stream, without the stream: what it is told goes in, drafts come out.

    opened / committed / closed  ->  Sessions  ->  next_draft()

A session is due for a draft when its context has changed since the last one. Drafts are made when they can be
sent, not when a commit comes in: so commits that pile up are answered by one draft, for the latest of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from paceline.drafter.calibration import Calibration
from paceline.drafter.memory import Memory, Scope, ScopeKey
from paceline.drafter.merge import merge
from paceline.drafter.strategies.base import Budget, Candidates, Commit, Context, Proposer, Sampling
from paceline.wire.digest import digest_of, extend
from paceline.wire.tree import Anchor, DraftTree

MAX_SESSIONS = 4096
MAX_CONTEXT_TOKENS = 1 << 20
MAX_LIVE_TOKENS = 1 << 22  # of all sessions of a stream together


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


@dataclass(frozen=True, slots=True)
class Opening:
    """A session as a verifier announces it. max_nodes 0 sets no bound of its own; a candidate whose path is less
    likely than least_value can't pay."""

    session_id: int
    tokens: tuple[int, ...]
    digest: int
    prompt_tokens: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    memory_key: bytes = b""
    max_nodes: int = 0
    least_value: float = 0.0


@dataclass(frozen=True, slots=True)
class Draft:
    """A tree, where it hangs, and how long it took to make."""

    anchor: Anchor
    tree: DraftTree
    draft_us: int


@dataclass(slots=True)
class _Session:
    context: Context
    digest: int
    budget: Budget
    scope: Scope
    remembers: bool
    proposers: list[Proposer]
    # The last draft, as the strategies made it, and the context's length then: what follows shows what was
    # right.
    proposed: list[Candidates] = field(default_factory=list)
    proposed_at: int = 0


class Sessions:
    """All sessions of one stream. Not thread-safe, does no I/O.

    Args:
        terms: what the verifier said in Welcome.
        memory: of the process.
        calibrations: one per strategy, of the process.
        max_nodes: the drafter's own bound on a tree.
        clock: seconds, for draft_us.
    """

    def __init__(
        self,
        terms: Terms,
        memory: Memory,
        calibrations: Sequence[Calibration],
        max_nodes: int,
        clock: Callable[[], float],
    ) -> None:
        self.tally: Counter[str] = Counter()
        self._terms = terms
        self._memory = memory
        self._calibrations = calibrations
        self._max_nodes = min(max_nodes, terms.max_tree_nodes)
        self._clock = clock
        self._sessions: dict[int, _Session] = {}
        self._due: dict[int, None] = {}  # in the order in which they became due: nobody is served twice before others
        self._live_tokens = 0

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def is_due(self) -> bool:
        return bool(self._due)

    def opened(self, opening: Opening) -> None:
        """A new session, or one announced anew: what is known of it is replaced."""
        self.drop(opening.session_id)
        size = len(opening.tokens)
        if not size or digest_of(opening.tokens) != opening.digest:
            self.tally["wrong_digest"] += 1
            return
        if len(self._sessions) >= MAX_SESSIONS or not self._has_room(size, size):
            self.tally["no_room"] += 1
            return
        context = Context(list(opening.tokens), opening.prompt_tokens, opening.sampling)
        terms = self._terms
        scope = self._memory.scope(ScopeKey(terms.model, terms.tokenizer_hash, terms.vocab_size, opening.memory_key))
        self._sessions[opening.session_id] = _Session(
            context=context,
            digest=opening.digest,
            budget=Budget(min(opening.max_nodes or self._max_nodes, self._max_nodes), terms.max_tree_depth),
            scope=scope,
            remembers=bool(opening.memory_key),
            proposers=[strategy.begin(context) for strategy in scope],
        )
        self._live_tokens += size
        self._due[opening.session_id] = None
        self.tally["opened"] += 1

    def committed(self, commit: Commit) -> None:
        """A session goes on. If its context is no longer the verifier's it is dropped: it can't catch up."""
        session = self._sessions.get(commit.session_id)
        if session is None:
            self.tally["unknown_session"] += 1
            return
        tokens = session.context.tokens
        digest = extend(session.digest, commit.tokens)
        if len(tokens) + len(commit.tokens) != commit.length or digest != commit.digest:
            self.tally["wrong_digest"] += 1
            self.drop(commit.session_id)
            return
        if not self._has_room(len(commit.tokens), commit.length):
            self.tally["no_room"] += 1
            self.drop(commit.session_id)
            return
        tokens.extend(commit.tokens)
        session.digest = digest
        self._live_tokens += len(commit.tokens)
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
        if session is not None:
            self._live_tokens -= len(session.context.tokens)
        return session

    def next_draft(self) -> Draft | None:
        """A draft for the session that has been due longest, None if none is. It may be an empty tree."""
        if not self._due:
            return None
        session_id = next(iter(self._due))
        del self._due[session_id]
        session = self._sessions[session_id]
        started = self._clock()
        self._resolve(session)
        session.proposed = [proposer.draft(session.budget) for proposer in session.proposers]
        session.proposed_at = len(session.context.tokens)
        corrected = [
            calibration.corrected(tree) for calibration, tree in zip(self._calibrations, session.proposed, strict=True)
        ]
        tree = merge(corrected, session.budget)
        self.tally["drafts"] += 1
        self.tally["draft_tokens"] += len(tree)
        anchor = Anchor(session_id, session.proposed_at, session.digest)
        return Draft(anchor, tree, int((self._clock() - started) * 1e6))

    def _resolve(self, session: _Session) -> None:
        """Tells the calibrations what came of the last draft."""
        followed = session.context.tokens[session.proposed_at :] if session.proposed else []
        if followed:
            for calibration, tree in zip(self._calibrations, session.proposed, strict=True):
                calibration.resolve(tree, followed)

    def _has_room(self, num_tokens: int, length: int) -> bool:
        return length <= MAX_CONTEXT_TOKENS and self._live_tokens + num_tokens <= MAX_LIVE_TOKENS
