"""Datastores: the suffix array against brute force, what a folder must be, and the command that makes one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.drafter.__main__ import COMMANDS
from paceline.drafter.automaton import BREAK
from paceline.drafter.datastore import build
from paceline.drafter.datastore.command import IndexSettings, index
from paceline.drafter.datastore.store import MANIFEST, MAX_MATCH, SUFFIXES, TOKENS, Datastore
from paceline.drafter.datastore.suffix_array import SORTED_DEPTH, suffix_array
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import StartupError

texts = st.lists(st.integers(BREAK, 3), min_size=1, max_size=120)


def silent(_stage: str, _share: float) -> None:
    pass


def make(folder: Path, tokens: list[int], tokenizer_hash: str = "h") -> Path:
    build.write(np.array(tokens, dtype=np.int32), tokenizer_hash, folder, silent)
    return folder


@given(texts)
def test_positions_are_in_the_order_of_what_follows_them(tokens: list[int]) -> None:
    found = suffix_array(np.array(tokens, dtype=np.int32)).tolist()
    assert found == sorted(range(len(tokens)), key=lambda place: (tokens[place : place + SORTED_DEPTH], place))


def test_long_repetitions_take_no_longer_and_stay_in_the_order_of_the_text() -> None:
    tokens = [7] * 500
    found = suffix_array(np.array(tokens, dtype=np.int32)).tolist()
    assert found[-469:] == list(range(469))
    assert found[:31] == list(range(499, 468, -1))


def test_progress_goes_from_nothing_to_all() -> None:
    shares: list[float] = []
    suffix_array(np.array([1, 2, 1], dtype=np.int32), shares.append)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


@settings(max_examples=30)
@given(texts.filter(lambda tokens: max(tokens) >= 0), st.lists(st.integers(0, 3), max_size=20))
def test_lookups_find_what_brute_force_finds(
    tmp_path_factory: pytest.TempPathFactory, tokens: list[int], recent: list[int]
) -> None:
    store = Datastore(make(tmp_path_factory.mktemp("store") / "d", tokens))

    def followers(word: list[int]) -> Counter[int]:
        size = len(word)
        padded = [*tokens, BREAK]
        ends = [place + size for place in range(len(tokens) - size + 1) if tokens[place : place + size] == word]
        return Counter(padded[end] for end in ends)

    sizes = range(1, min(len(recent), MAX_MATCH) + 1)
    occurring = [size for size in sizes if followers(recent[-size:])]
    found = store.matches(recent, 3)
    assert [length for _, length in found][:1] == occurring[-1:]
    lengths = [length for _, length in found]
    assert lengths == sorted(set(lengths), reverse=True)
    for state, length in found:
        counted, places = store.followers(state, 1000)
        assert {token: times for times, token in counted} == followers(recent[-length:])
        assert places == sum(times for times, _ in counted)
        for _, token in counted:
            if token != BREAK:
                after, size = store.advance(state, length, token)
                assert size == length + 1
                assert {follower: times for times, follower in store.followers(after, 1000)[0]} == followers(
                    [*recent[-length:], token]
                )
        assert store.advance(state, length, 99)[1] == 0


def test_a_match_that_has_grown_to_what_is_sorted_ends(tmp_path: Path) -> None:
    store = Datastore(make(tmp_path / "d", [5] * 100))
    state, length = store.matches([5] * 30, 1)[0]
    assert length == MAX_MATCH
    while length:
        depth = length
        state, length = store.advance(state, length, 5)
    assert depth == SORTED_DEPTH


def test_of_many_places_some_are_counted_evenly(tmp_path: Path) -> None:
    tokens = [token for step in range(3000) for token in (1, 2 if step % 4 else 3)]
    store = Datastore(make(tmp_path / "d", tokens))
    counted, places = store.followers(store.matches([1], 1)[0][0], 100)
    assert places <= 100
    shares = {token: times / places for times, token in counted}
    assert shares == pytest.approx({2: 0.75, 3: 0.25}, abs=0.03)


def rewrite(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


@pytest.mark.parametrize("name", [TOKENS, SUFFIXES])
@pytest.mark.parametrize("damage", ["flip", "cut", "missing", "empty"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, damage: str) -> None:
    folder = make(tmp_path / "d", [1, 2, 3] * 50)
    path = folder / name
    content = bytearray(path.read_bytes())
    content[16] ^= 1  # another number, and still a possible one
    match damage:
        case "flip":
            path.write_bytes(content)
        case "cut":
            path.write_bytes(content[:-4])
        case "empty":
            path.write_bytes(b"")
        case "missing":
            path.unlink()
    with pytest.raises(PacelineError, match=name) as refusal:
        Datastore(folder)
    assert refusal.value.reason == (Reason.HASH_MISMATCH if damage in ("flip", "cut") else Reason.UNUSABLE_REVISION)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "other"},
        {"num_tokens": 0},
        {"num_tokens": 151},
        {"num_tokens": 1 << 40},
        {"num_tokens": "150"},
        {"vocab_size": 3},
        {"sorted_depth": 16},
        {"tokenizer_hash": ""},
        {"files": {}},
        {"extra": 1},
    ],
)
def test_a_manifest_that_says_otherwise_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = make(tmp_path / "d", [1, 2, 3] * 50)
    Datastore(folder)
    rewrite(folder, **changes)
    with pytest.raises(PacelineError) as refusal:
        Datastore(folder)
    assert refusal.value.reason == Reason.UNUSABLE_REVISION
    assert "paceline-drafter index" in refusal.value.message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"x" * 100_000, None])
def test_a_folder_without_a_manifest_is_refused(tmp_path: Path, content: bytes | None) -> None:
    folder = make(tmp_path / "d", [1, 2, 3])
    (folder / MANIFEST).unlink()
    if content is not None:
        (folder / MANIFEST).write_bytes(content)
    with pytest.raises(PacelineError) as refusal:
        Datastore(folder)
    assert refusal.value.reason == Reason.UNUSABLE_REVISION


def test_positions_outside_the_text_are_refused_even_with_the_right_hash(tmp_path: Path) -> None:
    folder = make(tmp_path / "d", [1, 2, 3])
    suffixes = np.array([0, 1, 99], dtype=np.int32)
    (folder / SUFFIXES).write_bytes(suffixes.tobytes())
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][SUFFIXES] = build.File(size=12, sha256=build.hashlib.sha256(suffixes).hexdigest()).model_dump()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(PacelineError, match=SUFFIXES):
        Datastore(folder)


def test_another_targets_datastore_is_not_used_and_the_log_says_so_once(tmp_path: Path) -> None:
    store = Datastore(make(tmp_path / "d", [1, 2, 63]))
    with structlog.testing.capture_logs() as logs:
        assert store.serves("h", 64)
        assert not logs
        assert not any([store.serves("other", 64), store.serves("other", 64)])
        assert not store.serves("h", 63), "ids beyond the target's vocabulary"
    assert [entry["log_level"] for entry in logs] == ["warning", "warning"]


def tokenizer_file(folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "one", "two", "three", "."]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(3)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_the_command_makes_a_datastore_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "PIECE_CHARS", 8)
    (tmp_path / "a.txt").write_text("one two three .\none two\n")
    (tmp_path / "b.txt").write_text("three")
    settings = IndexSettings(
        text=[tmp_path / "a.txt", tmp_path / "b.txt"],
        out=tmp_path / "made" / "store",
        tokenizer=tokenizer_file(tmp_path),
        tokenizer_hash="h",
    )
    assert COMMANDS["index"].run is index
    assert index(settings) == 0
    assert "9 tokens of 2 files" in capsys.readouterr().out
    store = Datastore(settings.out)
    assert store.manifest.tokenizer_hash == "h"
    tokens = np.fromfile(settings.out / TOKENS, dtype=np.int32).tolist()
    assert tokens == [1, 2, 3, 4, 1, 2, BREAK, 3, BREAK] + [BREAK] * SORTED_DEPTH
    with pytest.raises(StartupError, match="exists"):
        index(settings)


@pytest.mark.parametrize("content", [None, b"", b"\n \n", b"\xff\xfe"])
def test_the_command_leaves_nothing_behind_if_there_is_no_text(tmp_path: Path, content: bytes | None) -> None:
    text = tmp_path / "a.txt"
    if content is not None:
        text.write_bytes(content)
    (tmp_path / "out").mkdir()
    settings = IndexSettings(
        text=[text], out=tmp_path / "out" / "d", tokenizer=tokenizer_file(tmp_path), tokenizer_hash="h"
    )
    with pytest.raises(StartupError, match="--text"):
        index(settings)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "given", [{}, {"verifier": "a:1", "tokenizer": "t"}, {"tokenizer": "t"}, {"verifier": "a:1", "tokenizer_hash": "h"}]
)
def test_the_command_takes_one_source_of_a_tokenizer(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="--verifier"):
        IndexSettings(text=[Path("a")], out=Path("b"), **given)
