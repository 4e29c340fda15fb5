"""Checks on lessons, and how they are stored. Everything in a request is hostile until it has been here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from paceline.trainer.segment import ID_BYTES, Record
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason, out_of_range

MAX_LESSONS = 256
MESSAGE_BYTES = 1 << 20  # of lessons that are read; one more lesson may come on top
MAX_CONTEXT = 32_768
MAX_TOKENS = 4096
MAX_TOP_K = 64
MAX_NAME = 200
MAX_DRAFTERS = 64
MAX_TEMPERATURE = 100.0
EPSILON = 1e-6  # by which a log-probability may exceed 0: float32 rounding


def lessons_from_proto(request: trainer_pb2.SubmitRequest) -> list[Record]:
    """Checked lessons. Raises OUT_OF_RANGE or MALFORMED naming the lesson's index and field; then none is stored."""
    if len(request.lessons) > MAX_LESSONS:
        raise out_of_range("lessons", f"{len(request.lessons)} lessons", f"at most {MAX_LESSONS}")
    for index, lesson in enumerate(request.lessons):
        _check(f"lessons[{index}]", lesson)
    return [_to_record(lesson) for lesson in request.lessons]


def lesson_from_record(record: Record) -> trainer_pb2.Lesson:
    """The lesson that was stored."""
    return trainer_pb2.Lesson.FromString(record.payload)


def lesson_batches(
    records: Iterable[Record], request: trainer_pb2.ReadLessonsRequest
) -> Iterator[list[trainer_pb2.Lesson]]:
    """What `ReadLessons` answers: those of `records` that are wanted, in their order, a message's worth at a time."""
    batch: list[trainer_pb2.Lesson] = []
    size = num_tokens = 0
    for record in records:
        if record.lesson_id == request.until_lesson_id:
            break
        lesson = lesson_from_record(record)
        other_model = request.model and lesson.model != request.model
        if other_model or (request.tokenizer_hash and lesson.tokenizer_hash != request.tokenizer_hash):
            continue
        batch.append(lesson)
        size += len(record.payload)
        num_tokens += len(lesson.tokens)
        if size >= MESSAGE_BYTES:
            yield batch
            batch, size = [], 0
        if request.max_tokens and num_tokens >= request.max_tokens:
            break
    if batch:
        yield batch


def _to_record(lesson: trainer_pb2.Lesson) -> Record:
    lesson.DiscardUnknownFields()  # nobody has checked them
    return Record(lesson.lesson_id, len(lesson.tokens), lesson.SerializeToString(deterministic=True))


def _check(where: str, lesson: trainer_pb2.Lesson) -> None:
    if len(lesson.lesson_id) != ID_BYTES:
        raise _malformed(f"{where}.lesson_id", f"{len(lesson.lesson_id)} bytes", f"{ID_BYTES} bytes")
    for name in ("model", "tokenizer_hash", "weights_hash", "tenant"):
        _check_name(f"{where}.{name}", getattr(lesson, name))
    if len(lesson.drafter_ids) > MAX_DRAFTERS:
        raise out_of_range(f"{where}.drafter_ids", f"{len(lesson.drafter_ids)} entries long", f"at most {MAX_DRAFTERS}")
    for name in lesson.drafter_ids:
        _check_name(f"{where}.drafter_ids", name)
    if len(lesson.context) > MAX_CONTEXT:
        raise out_of_range(f"{where}.context", f"{len(lesson.context)} tokens long", f"at most {MAX_CONTEXT}")
    if not 0 < len(lesson.tokens) <= MAX_TOKENS:
        raise out_of_range(f"{where}.tokens", f"{len(lesson.tokens)} tokens long", f"1 to {MAX_TOKENS}")
    if not 0.0 <= lesson.temperature <= MAX_TEMPERATURE:
        raise out_of_range(f"{where}.temperature", lesson.temperature, f"in [0, {MAX_TEMPERATURE:g}]")
    _check_per_token(where, lesson)


def _check_name(field: str, value: str) -> None:
    if len(value) > MAX_NAME:
        raise out_of_range(field, f"{len(value)} characters long", f"at most {MAX_NAME} characters")


def _check_per_token(where: str, lesson: trainer_pb2.Lesson) -> None:
    num_tokens = len(lesson.tokens)
    if len(lesson.accepted) != num_tokens:
        limit = f"one for each of {num_tokens} tokens"
        raise _malformed(f"{where}.accepted", f"{len(lesson.accepted)} entries", limit)
    if lesson.top_k > MAX_TOP_K:
        raise out_of_range(f"{where}.top_k", lesson.top_k, f"at most {MAX_TOP_K}")
    for name in ("top_k_ids", "top_k_log_probs"):
        length = len(getattr(lesson, name))
        if length != lesson.top_k * num_tokens:
            limit = f"top_k for each token ({lesson.top_k * num_tokens})"
            raise _malformed(f"{where}.{name}", f"{length} entries", limit)
    values = lesson.top_k_log_probs
    # Not a loop over up to a quarter of a million floats: a sum is finite only if all of them are.
    if values and not (math.isfinite(sum(values)) and max(values) <= EPSILON):
        raise _malformed(f"{where}.top_k_log_probs", "an entry that isn't", "finite entries that are at most 0")


def _malformed(field: str, value: object, limit: str) -> PacelineError:
    return PacelineError(
        Reason.MALFORMED, f"{field} has {value}; it must have {limit}", field=field, value=value, limit=limit
    )
