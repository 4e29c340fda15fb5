"""What the router believes of its arms, and how that reaches the store without any request waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from paceline.router.arms import Arm
from paceline.router.policies.base import Policy, Situation
from paceline.router.state.base import StateStore, StoreError
from paceline.router.statistics import ArmStats, Observation, Statistics

log = structlog.get_logger()

RETRY_S = 5.0
MAX_QUEUED = 10_000
MAX_BATCH = 500


@dataclass(frozen=True, slots=True)
class ArmReport:
    """What is believed of one arm, for people."""

    arm: Arm
    stats: ArmStats
    bonus: float


class Learner:
    """Chooses arms by a policy, and learns.

    Choices are made from memory. A task writes what was learnt to the store; while the store fails, learning
    goes on in memory and the writes are repeated. What other routers wrote to a shared store is read back
    with each write.

    Args:
        policy: decides.
        store: keeps.
        retry_s: pause after the store failed.
    """

    def __init__(self, policy: Policy, store: StateStore, retry_s: float = RETRY_S) -> None:
        self._policy = policy
        self._store = store
        self._retry_s = retry_s
        self._stored = Statistics()  # as the store had it last
        self._current = Statistics()  # the same with what is queued
        self._queued: deque[Observation] = deque()
        self._pending: dict[str, Counter[Arm]] = {}
        self._open = False
        self._warned = False
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Reads what was learnt before. Raises StoreError if the store can't be used."""
        self._stored = self._current = await self._store.open(Statistics())
        self._open = True
        self._task = asyncio.create_task(self._write(), name="learner")

    async def close(self) -> None:
        """Writes what is left, if that is possible."""
        self._closing.set()
        self._wake.set()
        if self._task is not None:
            await self._task
        with contextlib.suppress(StoreError):
            await self._store.close()

    # Choosing

    def choose(self, model: str, arms: Sequence[Arm]) -> Arm:
        """The policy's choice between arms of a model."""
        return self._policy.choose(self._situation(model, arms))

    def begin(self, model: str, arm: Arm) -> None:
        """A segment starts under an arm; `end` is owed."""
        self._pending.setdefault(model, Counter())[arm] += 1

    def end(self, model: str, arm: Arm) -> None:
        """That segment ended, or never will."""
        pending = self._pending[model]
        pending[arm] -= 1
        if pending[arm] <= 0:
            del pending[arm]
        if not pending:
            del self._pending[model]

    def report(self, model: str, arms: Sequence[Arm]) -> list[ArmReport]:
        situation = self._situation(model, arms)
        return [
            ArmReport(arm, situation.stats.get(arm, ArmStats()), self._policy.bonus(arm, situation)) for arm in arms
        ]

    def _situation(self, model: str, arms: Sequence[Arm]) -> Situation:
        return Situation(arms, self._current.of(model), self._pending.get(model, {}))

    # Learning

    def learn(self, observation: Observation) -> None:
        """Counts at once for choices here, and soon in the store."""
        self._current = self._current.learn(observation, self._policy.discount)
        if len(self._queued) >= MAX_QUEUED:
            # The store has been away for long: what it would get first is kept in memory only.
            self._stored = self._stored.learn(self._queued.popleft(), self._policy.discount)
        self._queued.append(observation)
        self._wake.set()

    async def _write(self) -> None:
        while True:
            while self._queued:
                last = self._closing.is_set()
                if not await self._flush():
                    if last:
                        return
                    await self._pause()
            if self._closing.is_set():
                return
            await self._wake.wait()
            self._wake.clear()

    async def _pause(self) -> None:
        """Before the store is tried again; cut short by closing, which means one last try."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), self._retry_s)

    async def _flush(self) -> bool:
        batch = [self._queued[index] for index in range(min(MAX_BATCH, len(self._queued)))]
        try:
            if not self._open:
                await self._store.open(self._stored)
                self._open = True
            stored = await self._store.apply(batch, self._policy.discount)
        except StoreError as error:
            self._open = False
            if not self._warned:
                log.warning("nothing can be stored; choosing goes on from memory", why=str(error))
            self._warned = True
            return False
        if self._warned:
            log.info("the store is back")
        self._warned = False
        self._taken(batch, stored)
        return True

    def _taken(self, batch: list[Observation], stored: Statistics) -> None:
        for observation in batch:
            # While the batch was written, a full queue may have dropped some of it.
            if self._queued and self._queued[0] is observation:
                self._queued.popleft()
        self._stored = self._current = stored
        for observation in self._queued:
            self._current = self._current.learn(observation, self._policy.discount)
