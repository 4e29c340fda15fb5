"""Keeps nothing beyond the process: for tests, and for routers that may forget."""

from __future__ import annotations

from paceline.router.evidence import Knowledge, Shape, merged
from paceline.router.state.base import Batch
from paceline.router.state.rows import MAX_MODELS, longer


class MemoryStore:
    """A `StateStore` that never fails."""

    def __init__(self) -> None:
        self._knowledge: Knowledge = {}
        self._discount = 1.0
        self._applied: dict[str, int] = {}

    async def open(self, shape: Shape, known: Knowledge) -> Knowledge:
        self._discount = shape.discount
        self._knowledge = {**self._knowledge, **longer(known, self._knowledge)}
        return self._knowledge

    async def apply(self, batch: Batch) -> Knowledge:
        if batch.number > self._applied.get(batch.router, 0):
            self._applied[batch.router] = batch.number
            both = merged(self._knowledge, batch.learnt, self._discount)
            rest = [model for model in both if model not in batch.learnt][: max(0, len(both) - MAX_MODELS)]
            self._knowledge = {model: evidence for model, evidence in both.items() if model not in rest}
        return {model: self._knowledge[model] for model in batch.learnt}

    async def read(self) -> Knowledge:
        return self._knowledge

    async def close(self) -> None:
        return None
