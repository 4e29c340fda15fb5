"""A vocabulary: which bytes each token stands for, and how a text is cut into tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


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
