"""What joins a drafter's vocabulary to a target's.

The drafter thinks in its own tokens and proposes the target's. A `Bridge` holds, for one session, the drafter's view of
the committed text, and turns trees of draft tokens into trees of target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import Candidates


class Vocabulary(Protocol):
    """A tokenizer, as far as bridges need it."""

    size: int
    """Ids are below this. May be less than a model's logits have rows."""
    content_hash: str
    """Hex SHA-256 of what it maps: equal exactly if two vocabularies give every id the same bytes and encode alike."""

    def bytes_of(self, token: int) -> bytes | None:
        """The bytes that a token stands for wherever it stands; None for special tokens, unused ids and unk."""

    def special(self, token: int) -> str | None:
        """The name of a special token, such as "<|im_start|>"; None for all others."""

    def special_id(self, name: str) -> int | None:
        """The id of the special token with that name."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; names of special tokens in it are plain text, and none is added."""


class Bridge(Protocol):
    """One session's way between two vocabularies. Made by a `BridgeKind`."""

    context: Sequence[int]
    """The committed text in draft tokens. `observe` may change its end."""
    allowed: npt.NDArray[np.bool_] | None
    """Draft tokens [size] that can be proposed; None: all. The model's distribution is cut to these and normalised."""
    noise_ids: npt.NDArray[np.int64] | None
    """Draft token -> the target token whose noise it shares, -1 if there is none [size]; None if positions differ, so
    that nothing is shared."""

    def observe(self, tokens: Sequence[int]) -> None:
        """Target tokens committed."""

    def translate(self, tree: LiveTree, selected: Sequence[int]) -> Candidates:
        """Candidates in target tokens for these nodes, parents first (a node's parent is the root or selected, too).

        A target token's confidence is the product of the claims of the draft tokens that it consumed. What can't be
        said in target tokens yet, because the text may go on in more than one way, is held back.
        """


class BridgeKind(Protocol):
    """A way to join two vocabularies; shared by all sessions of a stream, and by streams to targets with the same one.

    Raises PacelineError (VOCABULARY_MISMATCH) when made for vocabularies that it can't join, with the reason.
    """

    def __init__(self, target: Vocabulary, draft: Vocabulary) -> None: ...

    def begin(self, tokens: Sequence[int]) -> Bridge:
        """A bridge for a session with this context in target tokens."""
