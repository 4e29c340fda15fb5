"""Checks on lessons, and how they are stored."""

from __future__ import annotations

import math

from paceline.trainer.replay import ID_BYTES, StoredLesson
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason, out_of_range

MAX_LESSONS = 256
MAX_CONTEXT = 32_768
MAX_TOKENS = 4096
MAX_TOP_K = 64
MAX_NAME = 200
MAX_DRAFTERS = 64


def lessons_from_proto(request: trainer_pb2.SubmitRequest) -> list[StoredLesson]:
    """Checked lessons. Raises OUT_OF_RANGE or MALFORMED naming the lesson's index and field; then none is stored."""
    if len(request.lessons) > MAX_LESSONS:
        raise out_of_range("lessons", f"{len(request.lessons)} lessons", f"at most {MAX_LESSONS}")
    stored: list[StoredLesson] = []
    for index, lesson in enumerate(request.lessons):
        _check(f"lessons[{index}]", lesson)
        stored.append(StoredLesson(lesson.lesson_id, len(lesson.tokens), lesson.SerializeToString()))
    return stored


def _check(where: str, lesson: trainer_pb2.Lesson) -> None:
    if len(lesson.lesson_id) != ID_BYTES:
        raise _malformed(f"{where}.lesson_id", f"{len(lesson.lesson_id)} bytes", f"{ID_BYTES} bytes")
    for name in ("model", "tokenizer_hash", "tenant"):
        if len(getattr(lesson, name)) > MAX_NAME:
            raise out_of_range(f"{where}.{name}", "too long", f"at most {MAX_NAME} characters")
    if len(lesson.context) > MAX_CONTEXT:
        raise out_of_range(f"{where}.context", f"{len(lesson.context)} tokens", f"at most {MAX_CONTEXT}")
    if not 0 < len(lesson.tokens) <= MAX_TOKENS:
        raise out_of_range(f"{where}.tokens", f"{len(lesson.tokens)} tokens", f"1 to {MAX_TOKENS}")
    if len(lesson.accepted) != len(lesson.tokens):
        raise _malformed(
            f"{where}.accepted", f"{len(lesson.accepted)} entries", f"one for each of {len(lesson.tokens)} tokens"
        )
    if lesson.top_k > MAX_TOP_K:
        raise out_of_range(f"{where}.top_k", lesson.top_k, f"at most {MAX_TOP_K}")
    expected = lesson.top_k * len(lesson.tokens)
    for name in ("top_k_ids", "top_k_log_probs"):
        if len(getattr(lesson, name)) != expected:
            limit = f"top_k for each token ({expected})"
            raise _malformed(f"{where}.{name}", f"{len(getattr(lesson, name))} entries", limit)
    if any(not (math.isfinite(value) and value <= 0.0) for value in lesson.top_k_log_probs):
        raise _malformed(f"{where}.top_k_log_probs", "a value that is not", "finite and at most 0")
    if not (math.isfinite(lesson.temperature) and 0.0 <= lesson.temperature <= 100.0):
        raise out_of_range(f"{where}.temperature", lesson.temperature, "in [0, 100]")
    if len(lesson.drafter_ids) > MAX_DRAFTERS or any(len(name) > MAX_NAME for name in lesson.drafter_ids):
        raise out_of_range(f"{where}.drafter_ids", "too many or too long", f"{MAX_DRAFTERS} of {MAX_NAME} characters")


def _malformed(field: str, value: object, limit: str) -> PacelineError:
    return PacelineError(
        Reason.MALFORMED, f"{field} has {value}; it must have {limit}", field=field, value=value, limit=limit
    )
