"""Lessons as those who refit drafters get them back."""

from __future__ import annotations

from pathlib import Path

import pytest
from trainer_client import lesson, refusal_of, serving

from paceline.trainer import convert
from paceline.v1 import trainer_pb2, trainer_pb2_grpc
from paceline.wire.errors import Reason


async def read(stub: trainer_pb2_grpc.TrainerStub, **wanted: object) -> list[trainer_pb2.Lesson]:
    request = trainer_pb2.ReadLessonsRequest(**wanted)  # type: ignore[arg-type]
    return [item async for response in stub.ReadLessons(request) for item in response.lessons]


def numbers(lessons: list[trainer_pb2.Lesson]) -> list[int]:
    return [int.from_bytes(item.lesson_id, "big") for item in lessons]


@pytest.mark.parametrize("message_bytes", [1, convert.MESSAGE_BYTES])
async def test_the_newest_come_first_as_far_as_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, message_bytes: int
) -> None:
    monkeypatch.setattr(convert, "MESSAGE_BYTES", message_bytes)
    sent = [lesson(number) for number in range(1, 8)]
    async with serving(tmp_path) as (stub, _):
        assert await read(stub) == []
        await stub.Submit(trainer_pb2.SubmitRequest(lessons=sent))
        assert await read(stub) == sent[::-1]
        assert numbers(await read(stub, max_tokens=3)) == [7, 6]
        assert numbers(await read(stub, until_lesson_id=sent[4].lesson_id)) == [7, 6]
        assert numbers(await read(stub, until_lesson_id=sent[4].lesson_id, max_tokens=1)) == [7]
        assert numbers(await read(stub, until_lesson_id=bytes(16))) == [7, 6, 5, 4, 3, 2, 1]


async def test_lessons_of_another_target_are_left_out(tmp_path: Path) -> None:
    sent = [
        lesson(1, model="a", tokenizer_hash="x"),
        lesson(2, model="b", tokenizer_hash="x"),
        lesson(3, model="a", tokenizer_hash="y"),
    ]
    async with serving(tmp_path) as (stub, _):
        await stub.Submit(trainer_pb2.SubmitRequest(lessons=sent))
        assert numbers(await read(stub, model="a")) == [3, 1]
        assert numbers(await read(stub, tokenizer_hash="x")) == [2, 1]
        assert numbers(await read(stub, model="a", tokenizer_hash="x")) == [1]


async def test_an_id_of_another_length_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        refusal = await refusal_of(stub.ReadLessons(trainer_pb2.ReadLessonsRequest(until_lesson_id=b"12")).read())
        assert (refusal.reason, refusal.field) == (Reason.OUT_OF_RANGE, "until_lesson_id")
