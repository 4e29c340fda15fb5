"""Folders of revisions: written whole, read with distrust."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paceline.v1 import trainer_pb2
from paceline.wire import revision_folder
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.model_card import FeatureHeadCard, LanguageModelCard, card_json, parse_card
from paceline.wire.revision import MANIFEST, MAX_FILES, manifest_json, parse_manifest
from paceline.wire.revision_folder import (
    CARD,
    FORMAT,
    GRAPH,
    SIGNATURE,
    TOKENIZER,
    Revision,
    new_folder,
    open_revision,
    seal,
)

SHAPE = LanguageModelCard(
    architecture="TinyForCausalLM",
    vocab_size=300,
    max_length=128,
    num_layers=2,
    num_kv_heads=2,
    key_dim=8,
    value_dim=8,
    quantization="int8",
)
HEAD = FeatureHeadCard(
    architecture="FeatureHead",
    vocab_size=300,
    max_length=128,
    num_layers=1,
    num_kv_heads=2,
    key_dim=8,
    value_dim=8,
    quantization="none",
    width=16,
    target_hidden_size=24,
    feature_layers=(2, 5, 8),
    window=64,
)
MADE = trainer_pb2.RevisionManifest(drafter="tiny", format=FORMAT, command="made", metrics={"top1_agreement": 0.98})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "tiny")


def write(out: Path, manifest: trainer_pb2.RevisionManifest = MADE, **files: bytes) -> Path:
    content = {CARD: card_json(SHAPE), GRAPH: b"graph" * 1000, TOKENIZER: b"{}", **files}
    with new_folder(out) as made:
        for name, data in content.items():
            (made / name).write_bytes(data)
        seal(made, manifest)
    return out


def refused(folder: Path) -> PacelineError:
    with pytest.raises(PacelineError) as caught:
        everything(folder)
    return caught.value


def reason_of(call: Callable[[], object]) -> Reason | None:
    """Why it is refused; None if it isn't."""
    try:
        call()
    except PacelineError as error:
        return error.reason
    return None


def everything(folder: Path) -> Revision:
    found = open_revision(folder)
    assert found.read(GRAPH) == b"graph" * 1000
    assert found.read(TOKENIZER) == b"{}"
    return found


def test_what_is_written_is_read(folder: Path) -> None:
    found = everything(folder)
    assert found.card == SHAPE
    assert (found.manifest.drafter, dict(found.manifest.metrics)) == ("tiny", {"top1_agreement": 0.98})
    assert found.revision_id == hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    assert [file.path for file in found.manifest.files] == [CARD, GRAPH, TOKENIZER]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["tiny"]


@pytest.mark.parametrize(
    "change",
    [
        {"feature_layers": []},
        {"feature_layers": [1] * 9},
        {"feature_layers": [300]},
        {"feature_layers": [True]},
        {"feature_layers": "12"},
        {"cut_vocabulary": False},
        {"window": -1},
        {"width": 0},
    ],
)
def test_heads_beyond_bounds_are_refused(change: dict[str, Any]) -> None:
    content = json.dumps({**json.loads(card_json(HEAD)), **change}).encode()
    assert reason_of(lambda: parse_card(content)) == Reason.UNUSABLE_REVISION


def test_a_signature_is_no_part_of_what_is_signed(folder: Path) -> None:
    before = (folder / MANIFEST).read_bytes()
    (folder / SIGNATURE).write_bytes(bytes(64))
    seal(folder, MADE)
    assert (folder / MANIFEST).read_bytes() == before


def test_a_file_that_the_manifest_does_not_know_changes_nothing(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    everything(folder)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([CARD, GRAPH, TOKENIZER, MANIFEST]), place=st.floats(0, 1), change=st.integers(1, 255))
def test_a_byte_that_differs_is_noticed(folder: Path, name: str, place: float, change: int) -> None:
    path = folder / name
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[int(place * (len(whole) - 1))] ^= change
    path.write_bytes(damaged)
    try:
        if name != MANIFEST:
            assert refused(folder).reason == Reason.HASH_MISMATCH
        elif (folder / MANIFEST).read_bytes() != whole:
            # What the manifest says may be changed to something else that is well-formed: then it is another revision.
            reason = reason_of(lambda: everything(folder))
            assert reason in (Reason.HASH_MISMATCH, Reason.UNUSABLE_REVISION, None)
            assert reason or open_revision(folder).revision_id != hashlib.sha256(whole).hexdigest()
    finally:
        path.write_bytes(whole)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from([CARD, GRAPH, TOKENIZER, MANIFEST]), share=st.floats(0, 1), more=st.binary(max_size=4))
def test_files_of_another_length_are_noticed(folder: Path, name: str, share: float, more: bytes) -> None:
    path = folder / name
    whole = path.read_bytes()
    changed = whole[: int(share * len(whole))] + more
    path.write_bytes(changed)
    try:
        if changed != whole:
            assert refused(folder).reason in (Reason.HASH_MISMATCH, Reason.UNUSABLE_REVISION)
    finally:
        path.write_bytes(whole)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = ["drafter", "parent", "model", "tokenizer_hash", "format", "command", "metrics", "files", "more"]


@settings(max_examples=80, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=3), junk=st.binary(max_size=40))
def test_any_manifest_is_read_or_refused(changes: dict[str, Any], junk: bytes) -> None:
    document = {**json.loads(manifest_json(MADE)), **changes}
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    for content in (canonical, junk, canonical + junk):
        reason = reason_of(lambda content=content: parse_manifest(content))  # type: ignore[misc]
        assert reason in (Reason.UNUSABLE_REVISION, None)
        assert reason or manifest_json(parse_manifest(content)).encode() == content


@pytest.mark.parametrize("card", [SHAPE, HEAD])
def test_cards_survive_their_encoding(card: LanguageModelCard) -> None:
    assert parse_card(card_json(card)) == card


@settings(max_examples=120, deadline=None)
@given(changes=st.dictionaries(st.sampled_from(sorted(json.loads(card_json(HEAD)))), _JSON, max_size=3))
def test_any_card_is_read_or_refused(changes: dict[str, Any]) -> None:
    content = json.dumps({**json.loads(card_json(HEAD)), **changes}).encode()
    reason = reason_of(lambda: parse_card(content))
    assert reason in (Reason.UNUSABLE_REVISION, None)
    assert reason or json.loads(card_json(parse_card(content))) == json.loads(content)


def test_heads_that_borrow_are_of_a_version_of_their_own() -> None:
    borrower = replace(HEAD, width=16, target_hidden_size=16, borrows=True)
    document = json.loads(card_json(borrower))
    assert (document["version"], document["borrows"]) == (3, True)
    assert parse_card(card_json(borrower)) == borrower
    before = json.loads(card_json(HEAD))
    assert before["version"] == 2
    del before["borrows"]  # as releases wrote it that knew of no such thing
    assert parse_card(json.dumps(before).encode()) == HEAD
    for odd in ({"version": 2}, {"borrows": False}, {"width": 8}, {"borrows": 1}):
        content = json.dumps({**document, **odd}).encode()
        assert reason_of(lambda content=content: parse_card(content)) == Reason.UNUSABLE_REVISION, odd


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"kind": "other"},
        {"kind": []},
        {"kind": "feature_head"},
        {"vocab_size": 0},
        {"vocab_size": True},
        {"vocab_size": 10**30},
        {"num_layers": 1.0},
        {"num_layers": 256, "num_kv_heads": 256, "key_dim": 1024},
        {"quantization": "int4"},
        {"architecture": 5},
    ],
)
def test_cards_beyond_bounds_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    card = json.dumps({**json.loads(card_json(SHAPE)), **change}).encode()
    assert refused(write(tmp_path / "odd", **{CARD: card})).reason == Reason.UNUSABLE_REVISION


def test_json_that_is_deep_or_long_is_refused(tmp_path: Path) -> None:
    assert refused(write(tmp_path / "deep", **{CARD: b"[" * 60_000})).reason == Reason.UNUSABLE_REVISION
    assert refused(write(tmp_path / "long", **{CARD: b" " * 70_000})).reason == Reason.UNUSABLE_REVISION
    folder = write(tmp_path / "manifest")
    (folder / MANIFEST).write_bytes(b"[" * 100_000)
    assert refused(folder).reason == Reason.UNUSABLE_REVISION
    (folder / MANIFEST).write_bytes(b" " * (2 << 20))
    error = refused(folder)
    assert error.reason == Reason.UNUSABLE_REVISION
    assert "at most" in error.message


def test_revisions_of_another_format_are_refused(tmp_path: Path) -> None:
    other = trainer_pb2.RevisionManifest(drafter="tiny", format="safetensors")
    error = refused(write(tmp_path / "other", other))
    assert error.reason == Reason.UNUSABLE_REVISION
    assert "'onnx'" in error.message


def test_what_can_not_be_read_is_not_written(tmp_path: Path) -> None:
    for odd in (
        trainer_pb2.RevisionManifest(drafter="x" * 201),
        trainer_pb2.RevisionManifest(metrics={"a": float("nan")}),
        trainer_pb2.RevisionManifest(metrics={str(index): 0.0 for index in range(65)}),
    ):
        with pytest.raises(PacelineError):
            write(tmp_path / "odd", odd)
    with pytest.raises(PacelineError):
        write(tmp_path / "many", **{f"file{index}": b"" for index in range(MAX_FILES)})
    assert not list(tmp_path.iterdir())


def test_folders_without_the_files_are_refused(folder: Path, tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing").reason == Reason.UNUSABLE_REVISION
    (folder / GRAPH).unlink()
    error = refused(folder)
    assert (error.reason, error.field) == (Reason.UNUSABLE_REVISION, GRAPH)


def test_what_is_no_plain_file_is_not_waited_for(folder: Path) -> None:
    (folder / GRAPH).unlink()
    os.mkfifo(folder / GRAPH)
    assert "no plain file" in str(refused(folder))
    (folder / GRAPH).unlink()
    (folder / GRAPH).mkdir()
    assert refused(folder).reason == Reason.UNUSABLE_REVISION


def test_a_listed_file_may_not_be_larger_than_its_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(revision_folder.LIMITS, GRAPH, 4999)
    assert "at most 4999 bytes" in str(refused(folder))


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fail() -> None:
        with new_folder(tmp_path / "out") as made:
            (made / GRAPH).write_bytes(b"half")
            assert not (tmp_path / "out").exists()
            raise RuntimeError("the power fails")

    with pytest.raises(RuntimeError):
        fail()
    assert not list(tmp_path.iterdir())
    folder = write(tmp_path / "below" / "out")
    with pytest.raises(OSError, match="not empty"):
        write(folder)
    everything(folder)
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
