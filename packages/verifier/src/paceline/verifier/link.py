"""One connected drafter: what it must be told, what it may say. Sans-IO: messages in, messages out.

Outgoing updates are coalesced per session, so a drafter that reads slowly costs at most one pending update per session,
and gets the latest state when it reads again. Of the target's hidden states, that is as many positions as half
of a gRPC message holds.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from paceline.v1 import drafting_pb2
from paceline.verifier.allowance import Talk
from paceline.verifier.answers import Answers
from paceline.verifier.convert import opened_message, top_k_message
from paceline.verifier.model.batch import TopRows
from paceline.verifier.model.features import Features
from paceline.verifier.quarantine import Standing
from paceline.verifier.session import Session
from paceline.verifier.shadow_talk import ShadowTalk
from paceline.verifier.stretch import NO_FEATURES, FeatureWish, Stretch
from paceline.verifier.trie import Source
from paceline.verifier.waiting import Pending, Promise
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tree import Anchor, DraftTree, TreeBounds, decode_tree

log = structlog.get_logger()

MAX_TREE_NODES = 256
MAX_TREE_DEPTH = 128  # over a slow link, tokens that commit while a tree is on its way are part of its depth
MAX_STEP_US = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class DrafterInfo:
    """What a drafter said of itself; checked. `own`: it serves only requests that name its id.

    `features` are what it gets of those that it asked for. `knows_shadows`: it remembers nothing of a session that is
    announced as a shadow.
    """

    drafter_id: str
    name: str
    strategies: tuple[str, ...]
    commit_top_k: int
    own: bool = False
    features: FeatureWish = NO_FEATURES
    knows_shadows: bool = False


@dataclass(frozen=True, slots=True)
class Verification:
    """What a link needs to know of the verifier.

    Attributes:
        vocab_size: of the target.
        max_nodes: candidates of one session in one step.
        memory_key: of a session, what may be remembered of it under.
        least_value: probability of a path that can pay at all, as measured now.
        promise: of a session, what its candidates promise the next step, if that were its alone.
        refused: is told why a message can't be used, and for how many seconds that quarantines the drafter.
    """

    vocab_size: int
    max_nodes: int
    memory_key: Callable[[Session], bytes]
    least_value: Callable[[], float]
    promise: Callable[[Session], Promise]
    refused: Callable[[Reason, float], None] = lambda _reason, _quarantine_s: None


@dataclass(slots=True)
class _Update:
    """What a drafter has not been told yet of one session."""

    opened: bool = False
    tokens: list[int] = field(default_factory=list)
    top_tokens: list[int] = field(default_factory=list)
    top_ids: list[list[int]] = field(default_factory=list)
    step_s: float = 0.0
    committed: bool = False  # by a step; if it is opened by this update, its `tokens` are told with that


class DrafterLink:
    """One connected drafter.

    Args:
        info: from its Hello.
        standing: how it has behaved so far.
        verification: what it works for.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        info: DrafterInfo,
        standing: Standing,
        verification: Verification,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.info = info
        self.sources = tuple(Source(info.drafter_id, strategy) for strategy in info.strategies)
        self.answers = Answers(clock)
        self.closed = False
        self._standing = standing
        self._bounds = TreeBounds(MAX_TREE_NODES, MAX_TREE_DEPTH, verification.vocab_size, len(info.strategies))
        self._verification = verification
        self._clock = clock
        self._sessions: dict[int, Session] = {}
        self._updates: OrderedDict[int, _Update] = OrderedDict()
        self._features: dict[int, Stretch] = {}  # by session, until a commit is told
        self._closings: deque[int] = deque()
        self._ended: deque[int] = deque(maxlen=256)
        self._refusals: deque[drafting_pb2.Refusal] = deque(maxlen=64)
        self._talk = Talk()
        self._shadow: ShadowTalk | None = None
        self._held = False
        self._wake = asyncio.Event()

    # What the engine tells it.

    def hold(self, held: bool) -> None:
        """While held, commits wait and are told together later: drafts are not wanted now."""
        self._held = held
        if not held and self._updates:
            self._wake.set()

    def open(self, session: Session) -> None:
        """Announces a session, or announces it again with what was committed since."""
        if self._shadow is not None:
            self._shadow.give_up()
        self._sessions[session.session_id] = session
        self._updates[session.session_id] = _Update(opened=True)
        self._wake.set()

    def commit(
        self,
        session: Session,
        tokens: tuple[int, ...],
        after: tuple[int, ...],
        top: TopRows | None,
        step_s: float = 0.0,
        features: Features | None = None,
    ) -> None:
        """Tells what committed. `after` are the tokens that the rows of `top` follow; `step_s` is the time since the
        step before; `features` are of the rows that were kept."""
        if session.session_id not in self._sessions:
            return
        self._gather(session, session.length - len(tokens), features)
        update = self._updates.setdefault(session.session_id, _Update())
        update.committed = True
        if not update.opened:
            update.tokens.extend(tokens)
            update.step_s += step_s
        if self._held:
            return  # nor does it hear the target's guesses: they would pile up
        if top is not None and self.info.commit_top_k:
            update.top_tokens.extend(after)
            update.top_ids.extend(row[: self.info.commit_top_k] for row in top.ids)
        self._wake.set()

    def read(self, session: Session, features: Features) -> None:
        """A part of the prompt was read; its features are told with the first commit."""
        if session.session_id in self._sessions:
            self._gather(session, session.length, features)

    def _gather(self, session: Session, length: int, features: Features | None) -> None:
        """length: of the session before the step."""
        wish = self.info.features
        if features is None or not set(wish.layers) <= set(features.layers):  # it connected while the step ran
            return
        if wish.layers:
            stretch = self._features.setdefault(session.session_id, Stretch(wish.most))
            # An answer may end before the last candidate that was accepted.
            stretch.add(features.between(length - wish.window, session.length - 1))

    def close(self, session_id: int) -> None:
        if self._sessions.pop(session_id, None) is None:
            return
        self._features.pop(session_id, None)
        self._ended.append(session_id)
        self.answers.forget(session_id)
        update = self._updates.pop(session_id, None)
        if update is None or not update.opened:
            self._closings.append(session_id)
            self._wake.set()

    def serves(self, session_id: int) -> bool:
        return session_id in self._sessions

    @property
    def idle(self) -> bool:
        """It drafts for nobody, and could."""
        return not (self.closed or self._sessions or self._shadow or self._held or self.quarantined)

    def shadow(self, talk: ShadowTalk) -> None:
        """Begins a shadow session, or goes on with it; `end_shadow` is owed."""
        self._shadow = talk
        if self.closed or self._sessions:
            talk.give_up()
        self._wake.set()

    def end_shadow(self, talk: ShadowTalk) -> None:
        if self._shadow is not talk:
            return
        self._shadow = None
        self._ended.append(talk.session_id)
        if talk.begun:
            self._closings.append(talk.session_id)
            self._wake.set()

    def shut(self) -> None:
        """No more messages; the stream ends."""
        self.closed = True
        if self._shadow is not None:
            self._shadow.give_up()
        self._wake.set()

    def pending(self, session: Session) -> list[Pending]:
        """What should still come for the session's present state; nothing is to be expected of one in quarantine."""
        if self.quarantined or not self.serves(session.session_id):
            return []
        return self.answers.pending(session.session_id, session.length)

    def passed_over(self, session: Session) -> None:
        """A step begins; what this drafter still owes to the session's present state comes too late for it."""
        self.answers.passed_over(session.session_id, session.length)

    def overdue(self, session: Session) -> None:
        """A step stopped waiting for this drafter."""
        self.answers.overdue(session.session_id, session.length)

    # What it says.

    @property
    def quarantined(self) -> bool:
        return self._standing.quarantined(self._clock())

    def pause_s(self, num_nodes: int = 0) -> float:
        """For how long nothing more should be read after a message with so many nodes; mostly 0."""
        return self._talk.pause_s(self._clock(), num_nodes)

    def ping(self, nonce: int) -> None:
        """Answers, unless there were too many lately."""
        if self._talk.ping(self._clock(), nonce):
            self._wake.set()

    def receive(self, message: drafting_pb2.DraftTree) -> Session | None:
        """Grafts a tree onto its session; returns the session if candidates were added or waiting is now useless.

        A tree that can't be used is counted, answered with a Refusal, and does no other harm.
        """
        if self.quarantined:
            return None
        try:
            return self._graft(message)
        except PacelineError as error:
            self._refuse(message.anchor.session_id, error)
            return None

    def _graft(self, message: drafting_pb2.DraftTree) -> Session | None:
        anchor, tree = decode_tree(message, self._bounds)
        session = self._sessions.get(anchor.session_id)
        if session is None:
            if self._shadow is not None and anchor.session_id == self._shadow.session_id:
                self._shadow.receive(anchor, tree, message.final)
                return None
            if anchor.session_id in self._ended:
                return None  # it crossed its SessionClosed on the way, which is nobody's fault
            raise PacelineError(
                Reason.UNKNOWN_SESSION,
                f"anchor.session_id is {anchor.session_id}; no such session was announced to this drafter",
                field="anchor.session_id",
                value=anchor.session_id,
            )
        known = session.digest_at(anchor.length)
        if known is None or known != anchor.digest:
            raise PacelineError(
                Reason.WRONG_DIGEST,
                f"anchor.digest is {anchor.digest:016x} at length {anchor.length}; the session has {session.length} "
                "tokens and another digest there, so the draft continues a context that never was",
                field="anchor.digest",
                value=anchor.digest,
                limit=known,
            )
        if not len(tree) and not message.final:
            return None
        stage = self.answers.came(session.session_id, anchor.length, message.final)
        if stage is None or not stage.measured or self._held or anchor.length < session.length:
            self._add(session, anchor, tree)
        else:
            before = self._verification.promise(session)
            self._add(session, anchor, tree)
            stage.observe(before, self._verification.promise(session))
        return session

    def _add(self, session: Session, anchor: Anchor, tree: DraftTree) -> None:
        grafted = session.trie.graft(tree, self.sources, session.tokens[anchor.length :])
        if grafted.stale:
            for strategy in set(tree.strategy):
                session.total.credit(self.sources[strategy]).stale += 1

    def _refuse(self, session_id: int, error: PacelineError) -> None:
        session = self._sessions.get(session_id)
        if session is not None:
            for source in self.sources:
                session.total.credit(source).refused += 1
        quarantine_s = self._standing.refused(self._clock())
        self._verification.refused(error.reason, quarantine_s)
        refusal = drafting_pb2.Refusal(
            reason=error.reason.value,
            detail=error.message[:500],
            session_id=session_id,
            quarantined=quarantine_s > 0.0,
            quarantine_s=quarantine_s,
        )
        if quarantine_s:
            log.warning("drafter quarantined", drafter=self.info.drafter_id, seconds=quarantine_s, reason=error.reason)
            for known in self._sessions.values():
                known.trie.forget(self.info.drafter_id)
        self._refusals.append(refusal)
        self._wake.set()

    # What goes out.

    async def wait(self) -> None:
        """Until there is something to send or the link is shut."""
        await self._wake.wait()
        self._wake.clear()

    def outgoing(self) -> Iterator[drafting_pb2.VerifierMessage]:
        """Takes the messages that are due."""
        while self._talk.pongs:  # first, since the time until it comes is what the drafter wants to know
            yield drafting_pb2.VerifierMessage(pong=drafting_pb2.Pong(nonce=self._talk.pongs.popleft()))
        while self._refusals:
            yield drafting_pb2.VerifierMessage(refusal=self._refusals.popleft())
        while self._closings or self._updates:
            if self._closings:  # first, since a session can have been opened again after it was closed
                closed = drafting_pb2.SessionClosed(session_id=self._closings.popleft())
                yield drafting_pb2.VerifierMessage(closed=closed)
            else:
                # A message says what holds when it is made, so all of a session's are made before any is given out.
                yield from self._update_messages(*self._updates.popitem(last=False))
        if self._shadow is not None:
            yield from self._shadow.outgoing()

    def _update_messages(self, session_id: int, update: _Update) -> list[drafting_pb2.VerifierMessage]:
        session = self._sessions[session_id]
        messages: list[drafting_pb2.VerifierMessage] = []
        if update.opened:
            verification = self._verification
            opened = opened_message(
                session, verification.memory_key(session), self._nodes(session), verification.least_value()
            )
            messages.append(drafting_pb2.VerifierMessage(opened=opened))
        if update.tokens or update.top_tokens or (update.committed and self._features.get(session_id)):
            messages.append(drafting_pb2.VerifierMessage(commit=self._commit_message(session, update)))
        self.answers.told(session.session_id, session.length)
        return messages

    def _nodes(self, session: Session) -> int:
        max_nodes = self._verification.max_nodes
        return min(max_nodes, session.speculation.max_nodes or max_nodes)

    def _commit_message(self, session: Session, update: _Update) -> drafting_pb2.Commit:
        commit = drafting_pb2.Commit(
            session_id=session.session_id,
            tokens=update.tokens,
            length=session.length,
            digest=session.digest,
            step_us=min(MAX_STEP_US, round(update.step_s * 1e6)),
        )
        if update.top_tokens:
            commit.top_k.CopyFrom(top_k_message(self.info.commit_top_k, update.top_tokens, update.top_ids))
        if stretch := self._features.pop(session.session_id, None):
            commit.features.first, commit.features.values = stretch.take(self.info.features.layers)
        return commit
