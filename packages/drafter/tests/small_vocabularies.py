"""Tokenizers small enough to see through, as `tokenizer.json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tokenizers import pre_tokenizers

from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

BYTES = 256
MERGES = ("t h", "th e", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "h e", "l l", "he ll", "hell o", "Ċ Ċ", "Ġ Ġ", "Ã ©")
OTHER_MERGES = ("t h", "th e", "Ġ the", "o r", "w or", "Ġ wor", "l d", "ld s", "l o", "h e", "he l", "Ċ Ċ", "Ã ©")


def added(token: int, name: str, special: bool = True) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": name, "special": special, **plain}


def byte_level(merges: Sequence[str] = MERGES, specials: Sequence[str] = ("<end>",), **parts: Any) -> dict[str, Any]:
    """All 256 bytes, then what is merged, then special tokens. `parts` replace parts of the whole."""
    words = sorted(pre_tokenizers.ByteLevel.alphabet())
    for merge in merges:
        words += [word for word in (*merge.split(), merge.replace(" ", "")) if word not in words]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocab = {word: token for token, word in enumerate(words)}
    whole = {
        "version": "1.0",
        "added_tokens": [added(len(words) + place, name) for place, name in enumerate(specials)],
        "normalizer": None,
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": list(merges)},
    }
    return whole | parts


def sentencepiece(merges: Sequence[str] = ("▁ w", "o r", "▁w or", "▁ ▁"), **parts: Any) -> dict[str, Any]:
    """<unk>, <s>, the bytes by number, some characters, and what is merged."""
    words = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(BYTES)), *"▁abcdefghijklmnopqrstuvwxyz,.é"]
    words += [merge.replace(" ", "") for merge in merges]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    whole = {
        "version": "1.0",
        "added_tokens": [added(0, "<unk>"), added(1, "<s>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {
            "type": "BPE",
            "vocab": {word: token for token, word in enumerate(words)},
            "merges": list(merges),
            "unk_token": "<unk>",
            "byte_fallback": True,
        },
    }
    return whole | parts


def unigram() -> dict[str, Any]:
    """Words with scores, the likeliest sequence of which is taken, as in T5; with all bytes by number."""
    words = ["▁", *"abcdefghijklmnopqrstuvwxyz", "▁w", "wor", "▁wor", "ld", "▁world", "hello"]
    scored = [[word, -10.0 + len(word)] for word in words]
    vocab = [["<unk>", 0.0], *scored, *([f"<0x{byte:02X}>", 0.0] for byte in range(BYTES))]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "added_tokens": [added(0, "<unk>")],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]},
        "pre_tokenizer": metaspace,
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab, "byte_fallback": True},
    }


def vocabulary(whole: dict[str, Any]) -> TokenizerVocabulary:
    return TokenizerVocabulary(json.dumps(whole))
