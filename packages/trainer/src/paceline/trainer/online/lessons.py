"""Lessons as they are learned from. What the store hands out has been checked for shape, but not for sense."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason

MAX_TOTAL = 1.0 + 1e-3  # of probabilities that were written as float32 logarithms


@dataclass(frozen=True, slots=True)
class TargetIdentity:
    """Whose lessons may be learned from. vocab_size: ids are below it; weights_hash: "" takes any weights."""

    model: str
    tokenizer_hash: str
    vocab_size: int
    weights_hash: str = ""


@dataclass(frozen=True, slots=True)
class Lesson:
    """One verified stretch of text, in the target's tokens.

    Attributes:
        lesson_id: 16 bytes.
        context: tokens before it.
        tokens: that the target said [n].
        accepted: which of them had been drafted [n].
        top_ids, top_log_probs: the target's best tokens at each of them [n, k].
        temperature: they were drawn with; 0: the best was taken.
    """

    lesson_id: bytes
    context: tuple[int, ...]
    tokens: tuple[int, ...]
    accepted: npt.NDArray[np.bool_]
    top_ids: npt.NDArray[np.int64]
    top_log_probs: npt.NDArray[np.float32]
    temperature: float = 0.0

    @property
    def is_held_out(self) -> bool:
        """One of eight, by its id: kept for the gate, and never learned from, now or after a restart."""
        return hashlib.sha256(self.lesson_id).digest()[0] % 8 == 0


def read_lesson(message: trainer_pb2.Lesson, target: TargetIdentity) -> Lesson:
    """Raises PacelineError for a lesson that must not be learned from; the message names field, value and limit.

    Reasons: UNKNOWN_MODEL (its weights, too, if both are known), VOCABULARY_MISMATCH, TOKEN_OUT_OF_VOCABULARY,
    MALFORMED (what isn't finite or no probability).
    """
    if message.model != target.model:
        raise _refused(Reason.UNKNOWN_MODEL, "model", message.model[:80], repr(target.model))
    if message.tokenizer_hash != target.tokenizer_hash:
        raise _refused(Reason.VOCABULARY_MISMATCH, "tokenizer_hash", message.tokenizer_hash[:16], target.tokenizer_hash)
    if message.weights_hash and target.weights_hash and message.weights_hash != target.weights_hash:
        raise _refused(Reason.UNKNOWN_MODEL, "weights_hash", message.weights_hash[:16], target.weights_hash)
    count, k = len(message.tokens), message.top_k
    for name, ids in (("context", message.context), ("tokens", message.tokens), ("top_k_ids", message.top_k_ids)):
        if ids and max(ids) >= target.vocab_size:
            raise _refused(Reason.TOKEN_OUT_OF_VOCABULARY, name, "an id too large", f"below {target.vocab_size}")
    if not count or len(message.accepted) != count or len(message.top_k_ids) != k * count:
        raise _refused(Reason.MALFORMED, "tokens", f"{count} beside other counts", "the same for all")
    log_probs = np.array(message.top_k_log_probs, np.float32)
    if log_probs.shape != (k * count,) or not np.isfinite(log_probs).all() or (log_probs > 1e-3).any():
        raise _refused(Reason.MALFORMED, "top_k_log_probs", "no logarithms of probabilities", "finite and at most 0")
    log_probs = np.minimum(log_probs.reshape(count, k), 0.0)
    if k and float(np.exp(log_probs.astype(np.float64)).sum(axis=1).max()) > MAX_TOTAL:
        raise _refused(Reason.MALFORMED, "top_k_log_probs", "more than 1 together", "of probabilities")
    return Lesson(
        lesson_id=message.lesson_id,
        context=tuple(message.context),
        tokens=tuple(message.tokens),
        accepted=np.array(message.accepted, np.bool_),
        top_ids=np.array(message.top_k_ids, np.int64).reshape(count, k),
        top_log_probs=log_probs,
        temperature=message.temperature,
    )


def _refused(reason: Reason, field: str, value: str, limit: str) -> PacelineError:
    message = f"lesson: {field} is {value}; it must be {limit}"
    return PacelineError(reason, message, field=field, value=value, limit=limit)
