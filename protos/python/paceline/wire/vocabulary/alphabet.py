"""How tokenizers write bytes as characters."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from paceline.wire.vocabulary.refusals import malformed, not_understood

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_USUAL_MARK = "▁"


def steps_of(part: object) -> Iterator[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder, sequences taken apart."""
    if isinstance(part, dict):
        yield part
        for key in ("normalizers", "pretokenizers", "decoders"):
            nested = part.get(key)
            for step in nested if isinstance(nested, list) else ():
                yield from steps_of(step)


@dataclass(frozen=True, slots=True)
class Alphabet:
    """How words are written: byte by byte (`mark` is empty), or as text with a mark for each space."""

    mark: str

    @classmethod
    def of(cls, whole: dict[str, Any], model: dict[str, Any]) -> Alphabet:
        """The alphabet of a tokenizer.json. Raises PacelineError for families that are not understood."""
        if model.get("type", "BPE") not in ("BPE", "Unigram"):
            raise not_understood(f"its model is of type {str(model.get('type'))[:40]}")
        if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
            raise not_understood("its tokens are written differently within a word and at its end")
        steps = [step for part in ("normalizer", "pre_tokenizer", "decoder") for step in steps_of(whole.get(part))]
        if any(step.get("type") == "ByteLevel" for step in steps):
            return cls("")
        for step in steps:
            if step.get("type") == "Metaspace":
                mark = step.get("replacement", _USUAL_MARK)
                if not isinstance(mark, str) or len(mark) != 1:
                    raise malformed("Metaspace.replacement", "is not a character")
                return cls(mark)
        if any(writes_spaces(step) for step in steps):
            return cls(_USUAL_MARK)
        raise not_understood("its tokens don't say where spaces are")

    def meaning(self, word: str) -> bytes | None:
        """The bytes of a word; None if it can't be one."""
        if self.mark:
            byte = _BYTE_TOKEN.fullmatch(word)
            return bytes.fromhex(byte[1]) if byte else encoded(word.replace(self.mark, " "))
        try:
            return bytes([BYTE_OF[character] for character in word]) or None
        except KeyError:
            return None

    def is_fallback(self, word: str) -> bool:
        """Whether a word is a byte by its number."""
        return bool(self.mark and _BYTE_TOKEN.fullmatch(word))


def encoded(text: str) -> bytes | None:
    """UTF-8; None for nothing, and for what can't be encoded."""
    try:
        return text.encode() or None
    except UnicodeEncodeError:  # JSON can write half a surrogate pair
        return None


def writes_spaces(step: dict[str, Any]) -> bool:
    """Whether a step replaces spaces with marks."""
    return step.get("type") == "Replace" and (step.get("pattern"), step.get("content")) == (
        {"String": " "},
        _USUAL_MARK,
    )


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes are their own characters, all others follow from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
