"""What a `tokenizer.json` says: which bytes each token stands for, and a version of it that only encodes.

Two families are understood, which nearly all language models belong to. *Byte-level* tokenizers (GPT-2 and most since)
write each byte as a printable character. *SentencePiece-like* ones write a space as a mark, usually "▁", and bytes
they have no character for as "<0xNN>". In others (WordPiece, words with a suffix) the bytes of a token depend on where
it stands, so nothing can be said about a token by itself.

A file may come from anybody: sizes and types are checked here, and errors name the field.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from paceline.wire.errors import PacelineError, Reason
from paceline.wire.vocabulary.alphabet import Alphabet, encoded, steps_of, writes_spaces
from paceline.wire.vocabulary.refusals import malformed

MAX_CHARS = 64 << 20  # of a file; the largest in use have half as many
MAX_TOKENS = 1 << 20  # ids are below this; the largest vocabularies in use have 262,144


@dataclass(frozen=True, slots=True)
class TokenizerFormat:
    """A file that has been checked.

    Attributes:
        meanings: bytes by id; None for special tokens, unused ids and unk.
        specials: names of special tokens by id; without unk.
        fallbacks: ids of tokens that stand for a byte by its number, "<0xNN>".
        mark: the character that stands for a space in words; "" if bytes are written one by one.
        reach: see `Vocabulary.reach`.
        rules: what decides, besides the vocabulary, which tokens a piece gets; for the content hash.
        definition: for the tokenizers package. It only encodes, and goes on with a text rather than begin one: no
            space is put before it, it is not normalised, and no special tokens are added.
    """

    meanings: tuple[bytes | None, ...]
    specials: dict[int, str]
    fallbacks: frozenset[int]
    mark: str
    reach: int
    rules: tuple[str, ...]
    definition: str


def read_tokenizer_json(content: str) -> TokenizerFormat:
    """Checks the content of a tokenizer.json.

    Raises:
        PacelineError: MALFORMED if it isn't one; VOCABULARY_MISMATCH for a family that is not understood.
    """
    try:
        return _read(_parse(content))
    except RecursionError as error:
        raise malformed("tokenizer_json", "is nested too deeply") from error


def _read(whole: dict[str, Any]) -> TokenizerFormat:
    model = _dict(whole.get("model"), "model")
    words = _words(model)
    added = _added_tokens(whole)
    alphabet = Alphabet.of(whole, model)
    unk = _unk(model, words)
    meanings: list[bytes | None] = [None] * (1 + max([*words, *(token["id"] for token in added)], default=-1))
    for token, word in words.items():
        meanings[token] = alphabet.meaning(word)
    specials: dict[int, str] = {}
    for entry in added:
        token, text = entry["id"], entry["content"]
        if entry["special"]:
            meanings[token] = None
            specials[token] = text
        elif meanings[token] is None:
            meanings[token] = text.encode()
    if unk is not None:
        meanings[unk] = None
        specials.pop(unk, None)
    longest = max((len(token["content"].encode()) for token in added if not token["special"]), default=0)
    return TokenizerFormat(
        meanings=tuple(meanings),
        specials=specials,
        fallbacks=frozenset(token for token, word in words.items() if alphabet.is_fallback(word)),
        mark=alphabet.mark,
        reach=max(16, longest),  # patterns look a few characters ahead; an added token is found as a whole
        rules=_rules(model),
        definition=_definition(whole, model, added, alphabet, words),
    )


# Checks


def _parse(content: str) -> dict[str, Any]:
    if len(content) > MAX_CHARS:
        raise PacelineError(
            Reason.OUT_OF_RANGE,
            f"tokenizer_json has {len(content)} characters; it may have at most {MAX_CHARS}",
            field="tokenizer_json",
            value=len(content),
            limit=MAX_CHARS,
        )
    try:
        whole = json.loads(content)
    except ValueError as error:
        raise malformed("tokenizer_json", "is not JSON") from error
    return _dict(whole, "tokenizer_json")


def _dict(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise malformed(field, "is not an object")
    return value


def _list(value: object, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise malformed(field, "is not a list")
    return value


def _id(value: object, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < MAX_TOKENS:
        raise malformed(field, f"is not an id from 0 to {MAX_TOKENS - 1}")
    return value


def _words(model: dict[str, Any]) -> dict[int, str]:
    """The model's vocabulary by id."""
    vocab = model.get("vocab")
    if isinstance(vocab, list):  # Unigram: [word, score] by id
        pairs = [entry for entry in vocab if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)]
        if len(pairs) != len(vocab) or len(vocab) > MAX_TOKENS:
            raise malformed("model.vocab", f"is not a list of at most {MAX_TOKENS} words with scores")
        return {token: word for token, (word, _) in enumerate(pairs)}
    entries = _dict(vocab, "model.vocab")
    words = {_id(token, "model.vocab"): word for word, token in entries.items()}
    if len(words) != len(entries):
        raise malformed("model.vocab", "gives one id to two words")
    return words


def _added_tokens(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Added tokens as they are found in a text: as they stand, whatever is around them."""
    found: list[dict[str, Any]] = []
    entries = whole.get("added_tokens")
    for index, entry in enumerate([] if entries is None else _list(entries, "added_tokens")):
        field = f"added_tokens[{index}]"
        token = _dict(entry, field)
        content = token.get("content")
        if not isinstance(content, str) or encoded(content) is None:
            raise malformed(f"{field}.content", "is not a text")
        plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        special = token.get("special") is True
        found.append({"id": _id(token.get("id"), f"{field}.id"), "content": content, "special": special, **plain})
    if len({token["id"] for token in found}) != len(found):
        raise malformed("added_tokens", "gives one id to two tokens")
    return found


def _unk(model: dict[str, Any], words: dict[int, str]) -> int | None:
    if isinstance(model.get("vocab"), list):
        unk = model.get("unk_id")
        return unk if isinstance(unk, int) and unk in words else None
    return next((token for token, word in words.items() if word == model.get("unk_token")), None)


# A version that only encodes


def _definition(
    whole: dict[str, Any],
    model: dict[str, Any],
    added: list[dict[str, Any]],
    alphabet: Alphabet,
    words: dict[int, str],
) -> str:
    cuts = _without_prefix(whole.get("pre_tokenizer"))
    mark = alphabet.mark
    splits = any(
        step.get("type") not in ("Sequence", "Metaspace") or step.get("split", True) for step in steps_of(cuts)
    )
    if mark and not splits and not any(mark in word.lstrip(mark) for word in words.values()):
        # No token goes on over a space, so cutting there changes nothing; and text in pieces can be encoded in parts.
        pattern = {"Regex": f"{re.escape(mark)}+[^{re.escape(mark)}]*|[^{re.escape(mark)}]+"}
        words_apart = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
        cuts = {"type": "Sequence", "pretokenizers": [*([cuts] if cuts else []), words_apart]}
    kept = [
        step for step in steps_of(whole.get("normalizer")) if writes_spaces(step) or step.get("type") == "ByteLevel"
    ]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": kept} if kept else None,
            "pre_tokenizer": cuts,
            "post_processor": None,
            "decoder": None,
            "model": model | {"dropout": None},
        }
    )


def _without_prefix(part: object) -> Any:
    """A pre-tokenizer that puts no space before the text."""
    if not isinstance(part, dict):
        return None
    part = dict(part)
    if part.get("type") == "ByteLevel":
        part["add_prefix_space"] = False
    if part.get("type") == "Metaspace":
        part.pop("add_prefix_space", None)
        part["prepend_scheme"] = "never"
    if isinstance(part.get("pretokenizers"), list):
        part["pretokenizers"] = [_without_prefix(step) for step in part["pretokenizers"]]
    return part


def _rules(model: dict[str, Any]) -> tuple[str, ...]:
    vocab = model.get("vocab")
    if isinstance(vocab, list):
        return tuple(str(score) for _, score in vocab)
    merges = _list(model.get("merges"), "model.merges")
    return tuple(
        merge if isinstance(merge, str) else " ".join(map(str, _list(merge, "model.merges"))) for merge in merges
    )
