"""What a tokenizer's tokens stand for, so that texts can be told in another tokenizer's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from paceline.wire.settings import StartupError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE_MARK = "▁"


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """Attributes:
    data: bytes by id; None for special tokens and unused ids.
    specials: names of special tokens by id.
    """

    data: tuple[bytes | None, ...]
    specials: dict[int, str]

    def ids(self) -> dict[bytes, int]:
        """Ids by bytes; the lowest of several."""
        found: dict[bytes, int] = {}
        for token, data in enumerate(self.data):
            if data:
                found.setdefault(data, token)
        return found


def token_bytes(tokenizer_json: str, size: int = 0) -> TokenBytes:
    """Reads the content of a tokenizer.json, of `size` ids at least: models may have more than their tokenizers.

    Raises StartupError: tokens of this family don't stand for bytes by themselves (WordPiece, for example).
    """
    document = json.loads(tokenizer_json)
    words: dict[str, int] = _words(document["model"])
    read = _byte_level if _any_step(document, "ByteLevel") else _marked if _marks_spaces(document) else None
    if read is None:
        raise StartupError(
            "--target: its tokenizer is neither byte-level nor SentencePiece-like; choose another target"
        )
    added = document.get("added_tokens") or []
    size = max(size, 1 + max([*words.values(), *(token["id"] for token in added)], default=-1))
    data: list[bytes | None] = [None] * size
    for word, token in words.items():
        data[token] = read(word)
    specials = {token["id"]: token["content"] for token in added if token["special"]}
    for token in added:
        data[token["id"]] = None if token["special"] else token["content"].encode()
    return TokenBytes(tuple(data), specials)


def _words(model: dict[str, Any]) -> dict[str, int]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, list):  # Unigram: [word, score] by id
        return {word: token for token, (word, _) in enumerate(vocabulary)}
    return dict(vocabulary)


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, dict):
        yield part
        for key in ("normalizers", "pretokenizers", "decoders"):
            for step in part.get(key) or []:
                yield from _steps(step)


def _any_step(document: dict[str, Any], kind: str) -> bool:
    parts = (document.get(name) for name in ("normalizer", "pre_tokenizer", "decoder"))
    return any(step.get("type") == kind for part in parts for step in _steps(part))


def _marks_spaces(document: dict[str, Any]) -> bool:
    replaced = any(
        step.get("type") == "Replace" and step.get("content") == _SPACE_MARK
        for step in _steps(document.get("normalizer"))
    )
    return replaced or _any_step(document, "Metaspace")


def _byte_level(word: str) -> bytes | None:
    try:
        return bytes(_BYTE_OF[character] for character in word)
    except KeyError:
        return None


def _marked(word: str) -> bytes | None:
    byte = _BYTE_TOKEN.fullmatch(word)
    return bytes.fromhex(byte[1]) if byte else word.replace(_SPACE_MARK, " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes are their own characters, the others follow from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
