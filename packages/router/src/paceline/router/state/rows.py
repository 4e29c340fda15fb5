"""Evidence as rows of a store: one for each arm, with its sums as of the last time that they were touched.

A segment discounts all arms of its model, but only the arms that it adds to are written. So a row says at which count
of the model's segments its sums were right; what they are worth by now follows from the count.

Stores are shared and may hold anything: a row that makes no sense is left out, and said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
import structlog

from paceline.router.arms import MAX_DRAFTERS, Arm
from paceline.router.evidence import FORGOTTEN, MAX_ARMS, Evidence, Knowledge, Shape, Sums
from paceline.router.state.base import Batch, StoreLost

log = structlog.get_logger()

MAX_MODELS = 200  # of one shape in a store; the one that was heard of longest ago goes first
MAX_SEGMENTS = 2**53  # beyond that a float doesn't count any more
MAX_SUM = 1e15
MAX_TEXT = 8000
KEEP_ROUTERS_S = 7 * 86400.0  # for which the number of a router's last batch is remembered
_LOGGED = 5  # bad rows of a model that are named

Row = tuple[object, object, object]
"""An arm as text; the count of segments at which its sums were right; the sums as bytes."""


def pack(sums: Sums) -> bytes:
    """Little-endian doubles."""
    return sums.astype("<f8").tobytes()


def evidence_of(model: str, segments: object, rows: Iterable[Row], shape: Shape) -> Evidence | None:
    """Of rows as a store holds them; None if not even the count of segments is one."""
    if not isinstance(segments, int) or not 0 <= segments <= MAX_SEGMENTS:
        log.warning("a model's state is left out", model=model[:200], why="its count of segments is no count")
        return None
    arms: list[Arm] = []
    ages: list[int] = []
    packed: list[bytes] = []
    refused = _Refused(model)
    for text, at, sums in rows:
        try:
            arm, age = _arm_of(text), _age_of(at, segments)
            packed.append(_doubles(sums, shape.width))
        except (ValueError, RecursionError) as error:
            refused.say(str(text), str(error))
            continue
        arms.append(arm)
        ages.append(age)
    matrix = np.frombuffer(b"".join(packed), dtype="<f8").astype(np.float64).reshape(len(arms), shape.width)
    sound = np.all(np.abs(matrix) <= MAX_SUM, axis=1) & (matrix[:, 0] >= 0.0)  # NaN is neither
    for index in np.flatnonzero(~sound):
        refused.say(arms[index].to_text(), "its sums aren't finite, or its weight is negative")
    matrix *= (shape.discount ** np.array(ages, dtype=np.float64))[:, None]
    kept = np.flatnonzero(sound & (matrix[:, 0] >= FORGOTTEN))
    kept = np.sort(kept[np.argsort(-matrix[kept, 0], kind="stable")][:MAX_ARMS])
    return Evidence(segments, {arms[index]: row for row, index in enumerate(kept)}, matrix[kept])


class _Refused:
    """Rows of one model that are left out."""

    def __init__(self, model: str) -> None:
        self._model = model[:200]
        self._count = 0

    def say(self, arm: str, why: str) -> None:
        self._count += 1
        if self._count <= _LOGGED:
            log.warning("a row of the state is left out", model=self._model, arm=arm[:200], why=why)


@lru_cache(maxsize=4096)
def _arm_of(text: object) -> Arm:
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise ValueError(f"an arm is a text of at most {MAX_TEXT} characters")
    arm = Arm.from_text(text)
    if len(arm.drafters) > MAX_DRAFTERS:
        raise ValueError(f"it has {len(arm.drafters)} drafters; at most {MAX_DRAFTERS} can be chosen")
    return arm


def _age_of(at: object, segments: int) -> int:
    if not isinstance(at, int) or not 0 <= at <= segments:
        raise ValueError(f"its sums are of segment {str(at)[:30]}, and there are {segments}")
    return segments - at


def _doubles(packed: object, width: int) -> bytes:
    if not isinstance(packed, bytes) or len(packed) != 8 * width:
        raise ValueError(f"its sums aren't {width} doubles")
    return packed


def check_seen(batch: Batch, model: str, segments: int) -> None:
    """Raises StoreLost if a store has less segments of a model than the batch's router has read there."""
    seen = batch.seen.get(model, 0)
    if segments < seen:
        raise StoreLost(f"it has {segments} segments of {model[:200]!r}, and {seen} were read there before")


def longer(known: Knowledge, stored: Mapping[str, Evidence]) -> Knowledge:
    """The models of which a router knows a longer history than a store holds: the store has lost something."""
    return {
        model: evidence
        for model, evidence in known.items()
        if model not in stored or stored[model].segments < evidence.segments
    }
