"""What joins a drafter's vocabulary to a target's.

The drafter thinks in its own tokens and proposes the target's. A `Bridge` holds, for one session, the drafter's view of
the committed text, and turns trees of draft tokens into trees of target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import Candidates


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text whose tokens do not depend on the text around it, such as a word with the space before it."""

    text: str
    tokens: tuple[int, ...]


class Vocabulary(Protocol):
    """A tokenizer, as far as bridges need it. Text here goes on: nothing is added at its beginning."""

    size: int
    """Ids are below this. May be less than a model's logits have rows."""
    content_hash: str
    """Hex SHA-256 of what it maps: equal exactly if two vocabularies give every id the same bytes, name the same
    special tokens, have the same merges or scores, and cut a text that tries them out alike."""
    reach: int
    """How many bytes of text behind the end of a piece can still move that end."""

    def bytes_of(self, token: int) -> bytes | None:
        """The bytes that a token stands for wherever it stands; None for special tokens, unused ids and unk."""

    def token_of(self, data: bytes) -> int | None:
        """The token that stands for exactly these bytes, if there is one."""

    def special(self, token: int) -> str | None:
        """The name of a special token, such as "<|im_start|>"; None for all others."""

    def special_id(self, name: str) -> int | None:
        """The id of the special token with that name."""

    def encode(self, text: str) -> list[int]:
        """Tokens of a text; names of special tokens in it are plain text, and none is added.

        Their bytes are the text's, except where the vocabulary can't say it and has unk there, or nothing.
        """

    def pieces(self, text: str) -> list[Piece]:
        """The same tokens by piece; the pieces' texts are the text."""


class Bridge(Protocol):
    """One session's way between two vocabularies. Made by a `BridgeKind`."""

    context: Sequence[int]
    """The committed text in draft tokens, as far as its characters are complete. `observe` may change its end. The
    object stays the same."""
    allowed: npt.NDArray[np.bool_] | None
    """Draft tokens [size] that can be proposed; None: all. The model's distribution is cut to these and normalised.
    A bridge that learns changes it in place."""
    noise_ids: npt.NDArray[np.int64] | None
    """Draft token -> the target token whose noise it shares, -1 if there is none [size]; None if positions differ, so
    that nothing is shared."""

    def observe(self, tokens: Sequence[int]) -> None:
        """Target tokens committed."""

    def translate(self, tree: LiveTree, selected: Sequence[int]) -> Candidates:
        """Candidates in target tokens for these nodes, parents first (a node's parent is the root or selected, too).

        A target token's confidence is the product of the claims of the draft tokens that it consumed, less what other
        selected nodes make of the same draft tokens. What can't be said in target tokens yet, such as a part of a
        character, is held back.
        """


class BridgeKind(Protocol):
    """A way to join two vocabularies; shared by all sessions of a stream, and by streams to targets with the same one.

    Raises PacelineError (VOCABULARY_MISMATCH) when made for vocabularies that it can't join, with the reason.
    """

    def __init__(self, target: Vocabulary, draft: Vocabulary) -> None: ...

    def begin(self, tokens: Sequence[int]) -> Bridge:
        """A bridge for a session with this context in target tokens."""
