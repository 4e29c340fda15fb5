"""Shards: whole or not at all, refused by name if damaged, the same order again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_targets import ORIGIN, VOCAB, random_answers

from paceline.trainer.data import shards as shards_module
from paceline.trainer.data.rows import ANSWERS, READINGS, Answer, Kind, Reading
from paceline.trainer.data.shards import Shards, ShardWriter
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import StartupError

READ = {**ORIGIN, "top_k": 3, "layers": [1, 2], "hidden_size": 4}


def write(folder: Path, answers: list[Answer], size: int, origin: dict[str, object] = ORIGIN) -> None:
    with ShardWriter(folder, ANSWERS, origin) as writer:
        todo = [answer for answer in answers if answer.id not in writer.done]
        for start in range(0, len(todo), size):
            writer.write(todo[start : start + size])


def plain(answer: Answer) -> tuple[object, ...]:
    return answer.id, answer.source, answer.prompt_ids.tolist(), answer.answer_ids.tolist(), answer.finish


def random_reading(answer: Answer, seed: int) -> Reading:
    chance = np.random.default_rng(seed)
    count = len(answer.answer_ids)
    first = max(0, len(answer.prompt_ids) - 5)
    return Reading(
        answer,
        chance.integers(0, VOCAB, (count, 3), dtype=np.int32),
        -chance.random((count, 3)).astype(np.float16),
        first,
        chance.integers(0, 1 << 16, (len(answer) - first, 2, 4), dtype=np.uint16),
    )


def refusal(folder: Path) -> str:
    return refusal_of(folder, ANSWERS)


def refusal_of(folder: Path, kind: Kind[Any]) -> str:
    with pytest.raises(PacelineError) as caught:
        list(Shards(folder, kind))
    assert caught.value.reason == Reason.MALFORMED
    return caught.value.message


def test_answers_come_back_as_they_were_written(tmp_path: Path) -> None:
    answers = random_answers(150)
    write(tmp_path, answers, 70)
    shards = Shards(tmp_path, ANSWERS)
    assert [path.name for path in shards.paths] == [f"shard-0000{n}.parquet" for n in range(3)]
    assert list(map(plain, shards)) == list(map(plain, answers))
    assert len(shards) == 150
    assert shards.origin == ORIGIN
    assert shards.ids() == {answer.id for answer in answers}


def test_readings_come_back_to_the_bit(tmp_path: Path) -> None:
    readings = [random_reading(answer, n) for n, answer in enumerate(random_answers(40))]
    with ShardWriter(tmp_path, READINGS, READ) as writer:
        writer.write(readings)
    for one, other in zip(Shards(tmp_path, READINGS), readings, strict=True):
        assert plain(one.answer) == plain(other.answer)
        assert one.first == other.first
        for name in ("top_ids", "top_log_probs", "features"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)


def test_readings_without_features_take_no_room_for_them(tmp_path: Path) -> None:
    answer = random_answers(1)[0]
    top = np.zeros((len(answer.answer_ids), 3))
    bare = Reading(answer, top.astype(np.int32), top.astype(np.float16), len(answer), np.zeros((0, 0, 0), np.uint16))
    with ShardWriter(tmp_path, READINGS, {**READ, "layers": []}) as writer:
        writer.write([bare])
    assert next(iter(Shards(tmp_path, READINGS))).features.size == 0


def test_what_is_there_is_skipped_and_the_rest_goes_on(tmp_path: Path) -> None:
    answers = random_answers(30)
    write(tmp_path / "whole", answers, 10)
    write(tmp_path / "parts", answers[:20], 10)
    (tmp_path / "parts" / "shard-00002.parquet.new").write_bytes(b"PAR1 torn")
    write(tmp_path / "parts", answers, 10)
    assert Shards(tmp_path / "parts", ANSWERS).sha256() == Shards(tmp_path / "whole", ANSWERS).sha256()
    assert not list((tmp_path / "parts").glob("*.new"))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1 << 32), epoch=st.integers(0, 1 << 16))
def test_shuffling_gives_every_row_once_and_the_same_order_again(
    tmp_path_factory: pytest.TempPathFactory, seed: int, epoch: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "shuffled"
    if not folder.exists():
        write(folder, random_answers(300), 90)
    shards = Shards(folder, ANSWERS)
    order = [answer.id for answer in shards.shuffled(seed, epoch)]
    assert sorted(order) == sorted(shards.ids())
    assert order == [answer.id for answer in Shards(folder, ANSWERS).shuffled(seed, epoch)]
    assert order != [answer.id for answer in shards.shuffled(seed, epoch + 1)]
    assert order != [answer.id for answer in shards]


@pytest.mark.parametrize("keep", [0, 3, 100, -1, -9])
def test_a_torn_shard_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    write(tmp_path, random_answers(20), 10)
    path = tmp_path / "shard-00001.parquet"
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(tmp_path)
    assert "shard-00001.parquet" in message
    assert "remove it" in message
    with pytest.raises(PacelineError, match=r"shard-00001\.parquet"):
        ShardWriter(tmp_path, ANSWERS, ORIGIN)


def test_a_flipped_byte_is_found(tmp_path: Path) -> None:
    write(tmp_path, random_answers(64), 64)
    path = tmp_path / "shard-00000.parquet"
    content = bytearray(path.read_bytes())
    original = [plain(answer) for answer in Shards(tmp_path, ANSWERS)]
    silent = []
    for place in range(0, len(content), 23):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :])
        try:
            if [plain(answer) for answer in Shards(tmp_path, ANSWERS)] != original:
                silent.append(place)
        except PacelineError as error:
            silent += [place] * ("shard-00000.parquet" not in error.message)
    assert not silent


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path, random_answers(30), 10)
    (tmp_path / "shard-00001.parquet").unlink()
    assert "no shard-00001.parquet" in refusal(tmp_path)


def test_shards_of_another_kind_origin_or_program_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "one", random_answers(20), 10)
    write(tmp_path / "other", random_answers(20), 10, {**ORIGIN, "model": "another"})
    with pytest.raises(StartupError, match=r"model \(tiny, not another\)"):
        write(tmp_path / "one", [], 10, {**ORIGIN, "model": "another"})
    (tmp_path / "other" / "shard-00001.parquet").rename(tmp_path / "one" / "shard-00001.parquet")
    assert "shard-00001.parquet" in refusal(tmp_path / "one")
    with pytest.raises(PacelineError, match="holds answers of version 1"):
        Shards(tmp_path / "other", READINGS)
    with pytest.raises(PacelineError, match="has no shards"):
        Shards(tmp_path / "nowhere", ANSWERS)


def test_rows_that_dont_fit_their_origin_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, ANSWERS, {**ORIGIN, "vocab_size": 5}) as writer:
        writer.write(random_answers(3))
    assert "no tokens of a vocabulary of 5" in refusal(tmp_path)


def test_row_groups_are_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = [random_reading(answer, n) for n, answer in enumerate(random_answers(10))]
    monkeypatch.setattr(shards_module, "GROUP_BYTES", 1000)
    with ShardWriter(tmp_path, READINGS, READ) as writer:
        path = writer.write(readings)
        monkeypatch.setattr(shards_module, "MAX_ROW_BYTES", 100)
        with pytest.raises(PacelineError, match="keep less"):
            writer.write(readings)
    groups = pq.ParquetFile(path).metadata.num_row_groups
    assert sum(map(READINGS.num_bytes, readings)) / 1000 <= groups <= 10
    assert "more than 200 bytes" in refusal_of(tmp_path, READINGS)
    monkeypatch.undo()
    assert [row.answer.id for row in Shards(tmp_path, READINGS)] == [row.answer.id for row in readings]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, ANSWERS, ORIGIN), pytest.raises(StartupError, match="another process writes there"):
        ShardWriter(tmp_path, ANSWERS, ORIGIN)
    ShardWriter(tmp_path, ANSWERS, ORIGIN).__exit__()


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = random_answers(20)
    with ShardWriter(tmp_path, ANSWERS, ORIGIN) as writer:
        writer.write(answers[:10])

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(StartupError, match="No space left"):
            writer.write(answers[10:])
    monkeypatch.undo()
    assert Shards(tmp_path, ANSWERS).ids() == {answer.id for answer in answers[:10]}
    write(tmp_path, answers, 10)
    assert len(Shards(tmp_path, ANSWERS)) == 20


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    write(tmp_path / "private", random_answers(3), 10)
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "private" / "shard-00000.parquet").stat().st_mode & 0o777 == 0o600
