"""The bytes of each token, for those who are told of tokens one by one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from paceline.wire.errors import PacelineError
from paceline.wire.target_tokenizer import tokenizer_json
from paceline.wire.vocabulary.tokenizer_format import read_tokenizer_json


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is needed here."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = ...) -> str: ...


def pieces(files: Mapping[str, bytes], tokenizer: Tokenizer, size: int) -> tuple[bytes, ...]:
    """What each token stands for, [size]; special tokens for their names, ids that aren't used for nothing.

    Where tokens have no bytes of their own (WordPiece, for example) they stand for the text that they read as alone.

    Args:
        files: that make the tokenizer, by path.
        tokenizer: made of them.
        size: ids are below this.
    """
    try:
        known = read_tokenizer_json(tokenizer_json(files))
    except PacelineError:
        return tuple(_read(tokenizer, token) for token in range(size))

    def piece(token: int) -> bytes:
        if token >= len(known.meanings):
            return b""
        meaning = known.meanings[token]
        if meaning is not None:
            return meaning
        name = known.specials.get(token)
        return _read(tokenizer, token) if name is None else name.encode()  # unk is neither

    return tuple(map(piece, range(size)))


def _read(tokenizer: Tokenizer, token: int) -> bytes:
    try:
        return tokenizer.decode([token], skip_special_tokens=False).encode(errors="replace")
    except (OverflowError, KeyError, TypeError, ValueError):  # no such token, in the various words of tokenizers
        return b""
