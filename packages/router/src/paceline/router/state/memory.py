"""Keeps nothing beyond the process: for tests, and for routers that may forget."""

from __future__ import annotations

from paceline.router.evidence import Knowledge, Shape, merged
from paceline.router.state.base import Batch
from paceline.router.state.rows import MAX_MODELS, longer


class MemoryStore:
    """A `StateStore` that never fails.

    Args:
        by_shape: what it keeps; stores that get the same are one store.
    """

    def __init__(self, by_shape: dict[Shape, Knowledge] | None = None) -> None:
        self._by_shape: dict[Shape, Knowledge] = {} if by_shape is None else by_shape
        self._shape = Shape("none", 2, 1.0)
        self._applied: dict[str, int] = {}

    @property
    def _knowledge(self) -> Knowledge:
        return self._by_shape.get(self._shape, {})

    async def open(self, shape: Shape, known: Knowledge) -> Knowledge:
        self._shape = shape
        self._by_shape[shape] = {**self._knowledge, **longer(known, self._knowledge)}
        return self._knowledge

    async def apply(self, batch: Batch) -> Knowledge:
        if batch.number > self._applied.get(batch.router, 0):
            self._applied[batch.router] = batch.number
            both = merged(self._knowledge, batch.learnt, self._shape.discount)
            rest = [model for model in both if model not in batch.learnt][: max(0, len(both) - MAX_MODELS)]
            self._by_shape[self._shape] = {model: evidence for model, evidence in both.items() if model not in rest}
        return {model: self._knowledge[model] for model in batch.learnt}

    async def read(self) -> Knowledge:
        return self._knowledge

    async def close(self) -> None:
        return None
