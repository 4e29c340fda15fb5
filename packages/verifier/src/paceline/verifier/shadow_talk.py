"""A shadow session's part on a drafter's stream. Sans-IO: messages in, messages out; see `shadow_scorer`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from paceline.v1 import drafting_pb2
from paceline.verifier.convert import top_k_message
from paceline.verifier.shadow_replay import Part
from paceline.wire.digest import extend
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tree import Anchor, DraftTree

MAX_PARTS = 16  # of an answer; what comes beyond is not looked at


class ShadowTalk:
    """Tells one drafter of a session that is over, state by state, and takes what it drafts.

    Args:
        opened: announces the session.
        clock: monotonic seconds.
    """

    def __init__(self, opened: drafting_pb2.SessionOpened, clock: Callable[[], float]) -> None:
        self.session_id = opened.session_id
        self.given_up = False
        self.begun = False  # the drafter heard of it
        self._length = len(opened.tokens)
        self._digests = {self._length: opened.digest}
        self._clock = clock
        self._outgoing = deque([drafting_pb2.VerifierMessage(opened=opened)])
        self._told_s: float | None = None
        self._parts: list[Part] = []
        self._settled = asyncio.Event()

    # What the scorer does.

    def commit(self, tokens: Sequence[int], k: int, top_ids: Sequence[Sequence[int]], after: Sequence[int]) -> None:
        """The session goes on by these tokens. top_ids: rows of the target's best successors of the tokens `after`, of
        which `k` are told; rows may be empty."""
        digest = extend(self._digests[self._length], tuple(tokens))
        self._length += len(tokens)
        self._digests[self._length] = digest
        commit = drafting_pb2.Commit(session_id=self.session_id, tokens=tokens, length=self._length, digest=digest)
        known = [(token, row[:k]) for token, row in zip(after, top_ids, strict=True) if k and len(row) >= k]
        if known:
            commit.top_k.CopyFrom(top_k_message(k, [token for token, _ in known], [row for _, row in known]))
        self._outgoing.append(drafting_pb2.VerifierMessage(commit=commit))
        self._told_s, self._parts = None, []
        self._settled.clear()

    async def answered(self) -> None:
        """Returns when the answer to the latest state is complete, or nobody waits for it any more (`given_up`)."""
        await self._settled.wait()

    @property
    def settled(self) -> bool:
        """Whether it would return at once."""
        return self._settled.is_set()

    @property
    def answer(self) -> list[Part]:
        """What came for the latest state."""
        return self._parts

    def give_up(self) -> None:
        """The drafter has better to do, or is gone."""
        self.given_up = True
        self._settled.set()

    # What the stream does.

    def outgoing(self) -> Iterator[drafting_pb2.VerifierMessage]:
        """Takes the messages that are due."""
        while self._outgoing:
            message = self._outgoing.popleft()
            self._told_s, self.begun = self._clock(), True
            yield message

    def receive(self, anchor: Anchor, tree: DraftTree, final: bool) -> None:
        """Raises WRONG_DIGEST. A tree for a state that is past is of no use here."""
        known = self._digests.get(anchor.length)
        if known is None or known != anchor.digest:
            raise PacelineError(
                Reason.WRONG_DIGEST,
                f"anchor.digest is {anchor.digest:016x} at length {anchor.length}; the session has {self._length} "
                "tokens and another digest there, or was not told of at that length",
                field="anchor.digest",
                value=anchor.digest,
                limit=known,
            )
        if anchor.length != self._length or self._told_s is None or self.settled:
            return
        if len(self._parts) < MAX_PARTS and (len(tree) or final):
            self._parts.append(Part(max(0.0, self._clock() - self._told_s), tree))
        if final:
            self._settled.set()
