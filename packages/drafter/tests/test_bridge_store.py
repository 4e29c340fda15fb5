"""What bridges have learned outlives the process, and a damaged file does no harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_vocabularies import OTHER_MERGES, byte_level

from paceline.drafter.vocabulary.ngram_cache import NgramCache
from paceline.drafter.vocabulary.store import BridgeStore
from paceline.drafter.vocabulary.string_exact import StringExact
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

TARGET = TokenizerVocabulary(json.dumps(byte_level()))
DRAFT = TokenizerVocabulary(json.dumps(byte_level(OTHER_MERGES)))


def learned() -> NgramCache:
    kind = NgramCache(TARGET, DRAFT)
    tokens = TARGET.encode("hello world hello")
    kind.begin(tokens[:1]).observe(tokens[1:])
    assert json.loads(kind.save()) != json.loads(NgramCache(TARGET, DRAFT).save())
    return kind


def test_what_was_learned_comes_back(tmp_path: Path) -> None:
    kind, again = learned(), NgramCache(TARGET, DRAFT)
    BridgeStore(tmp_path / "new").save(kind)
    BridgeStore(tmp_path / "new").restore(again)
    assert again.save() == kind.save()


def test_another_pair_of_vocabularies_has_another_file(tmp_path: Path) -> None:
    store = BridgeStore(tmp_path)
    store.save(learned())
    other = NgramCache(DRAFT, TARGET)
    before = other.save()
    store.restore(other)
    assert other.save() == before


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]", b'{"runs": 7}'])
def test_a_damaged_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    store = BridgeStore(tmp_path)
    store.save(learned())
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    kind = NgramCache(TARGET, DRAFT)
    before = kind.save()
    store.restore(kind)
    assert kind.save() == before
    assert path.read_bytes() == content


def test_bridges_that_learn_nothing_have_no_file(tmp_path: Path) -> None:
    store = BridgeStore(tmp_path)
    store.save(StringExact(TARGET, DRAFT))
    store.restore(StringExact(TARGET, DRAFT))
    assert not list(tmp_path.iterdir())
