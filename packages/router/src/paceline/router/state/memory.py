"""Keeps nothing beyond the process: for tests, and for routers that may forget."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.router.statistics import Observation, Statistics


class MemoryStore:
    """A `StateStore` that never fails."""

    def __init__(self) -> None:
        self._statistics = Statistics()

    async def open(self, known: Statistics) -> Statistics:
        if not self._statistics.by_model:
            self._statistics = known
        return self._statistics

    async def apply(self, observations: Sequence[Observation], discount: float) -> Statistics:
        for observation in observations:
            self._statistics = self._statistics.learn(observation, discount)
        return self._statistics

    async def close(self) -> None:
        return None
