"""Which verifier saw how much of a prompt lately, told by keyed hashes of its beginnings.

A verifier shares the keys and values of a tenant's earlier prompts that begin alike, and its drafters remember what
that tenant's text was like. So a conversation is answered sooner where its last turn was. That a router guesses this
from what it sent where, and gives way to load, is taken from SGLang's cache-aware router, which keeps a tree of the
prompts themselves. Here are only hashes, under a key that ends with the process: of the tenant, of the model that was
asked for, and of the prompt up to some of its bytes. So no tenant's requests say anything about another's.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

LEAST_BYTES = 256  # about one block of a verifier's cache; of less than a block nothing can be shared
STRETCH = 8  # each further beginning is longer by this part: of more than 2 KB that are shared, 8 of 9 bytes are found
MAX_PARTS = 16  # of a conversation, the last ones, whose ends are beginnings too: that is where the next turn goes on
MAX_BEGINNINGS = 65_536  # some 10 MB
KEY_BYTES = 16
END = b"\xff"  # in no UTF-8
ANSWERS = b"assistant" + END


@dataclass(frozen=True, slots=True)
class Beginning:
    """The first `num_bytes` of a prompt, by what nobody can turn back into it."""

    key: bytes
    num_bytes: int


@dataclass(slots=True)
class Trail:
    """A request's prompt, and its answer as it grows, as far as affinity knows them: none of the text is kept.

    Attributes:
        beginnings: of the prompt, shortest first; the last is the whole. None if it is too short to matter.
        answer: hash and size of a conversation up to the answer's last token, None if this is no conversation.
    """

    beginnings: tuple[Beginning, ...] = ()
    answer: hashlib.blake2b | None = None
    num_bytes: int = 0

    def ended(self) -> Beginning | None:
        """The conversation with its answer, which is what the next turn begins with."""
        self.add(END)
        return Beginning(self.answer.digest(), self.num_bytes) if self.answer is not None else None

    def add(self, data: bytes) -> None:
        """The conversation goes on so."""
        if self.answer is not None:
            self.answer.update(data)
            self.num_bytes += len(data)


class Affinity:
    """Remembers where beginnings of prompts were served last.

    Args:
        slack: how much busier, as a share of its capacity, a verifier may be than others and still get a prompt of
            which it saw everything; 0 remembers nothing.
        secret: key of the hashes, at most 64 bytes.
        max_beginnings: that are remembered; those that were seen least recently are forgotten first.
    """

    def __init__(self, slack: float, secret: bytes, max_beginnings: int = MAX_BEGINNINGS) -> None:
        self._slack = slack
        self._secret = secret
        self._max_beginnings = max_beginnings
        self._served_by: OrderedDict[bytes, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._served_by)

    def trail(self, owner: Sequence[str], parts: Sequence[bytes], conversation: bool = False) -> Trail:
        """A prompt that is about to be placed.

        Args:
            owner: what else must be the same: tenant, model, kind of prompt.
            parts: of the prompt. Messages of a conversation end with END, so that none runs into the next.
            conversation: the answer will be a part of the next prompt.
        """
        if self._slack <= 0.0 or not parts:
            return Trail()
        data = memoryview(b"".join(parts))
        whose = END.join(name.encode() for name in (*owner, ""))
        state = hashlib.blake2b(whose, key=self._secret, digest_size=KEY_BYTES)
        beginnings, begin = [], 0
        for end in _ends([len(part) for part in parts]):
            state.update(data[begin:end])
            beginnings.append(Beginning(state.copy().digest(), end))
            begin = end
        if not conversation:
            return Trail(tuple(beginnings))
        state.update(data[begin:])
        trail = Trail(tuple(beginnings), state, len(data))
        trail.add(ANSWERS)
        return trail

    def credit(self, trail: Trail) -> dict[str, float]:
        """How much of its occupancy is forgiven a verifier, by id: the slack times the share of the prompt it saw."""
        credit: dict[str, float] = {}
        for beginning in trail.beginnings:  # longer ones come later
            verifier_id = self._served_by.get(beginning.key)
            if verifier_id is not None:
                credit[verifier_id] = self._slack * beginning.num_bytes / trail.beginnings[-1].num_bytes
        return credit

    def served(self, trail: Trail, verifier_id: str) -> None:
        """A verifier has read the prompt."""
        for beginning in trail.beginnings:
            self._remember(beginning, verifier_id)

    def finished(self, trail: Trail, verifier_id: str) -> None:
        """A verifier has written the answer's end."""
        whole = trail.ended()
        if whole is not None and whole.num_bytes >= LEAST_BYTES:
            self._remember(whole, verifier_id)

    def _remember(self, beginning: Beginning, verifier_id: str) -> None:
        self._served_by[beginning.key] = verifier_id
        self._served_by.move_to_end(beginning.key)
        if len(self._served_by) > self._max_beginnings:
            self._served_by.popitem(last=False)


def message(role: str, content: str) -> bytes:
    """One part of a conversation."""
    return role.encode() + END + content.encode() + END


def _ends(lengths: Sequence[int]) -> list[int]:
    """Where beginnings end, in bytes, in order: at the ends of the last parts, and ever further apart between."""
    ends = list(accumulate(lengths))
    return sorted({*(end for end in ends[-MAX_PARTS:] if end >= LEAST_BYTES), *_between(ends[-1])})


def _between(num_bytes: int) -> Iterator[int]:
    end = LEAST_BYTES
    while end < num_bytes:
        yield end
        end += max(LEAST_BYTES, end // STRETCH)
