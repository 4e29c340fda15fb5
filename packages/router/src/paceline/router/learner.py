"""What the router believes of its arms, and how that reaches the store without any request waiting for it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import structlog

from paceline.router.arms import Arm
from paceline.router.context import NEUTRAL
from paceline.router.evidence import Evidence, Knowledge, Observation, merged
from paceline.router.policies.base import Decision, Policy, Situation
from paceline.router.probation import decide
from paceline.router.reward import speed_of
from paceline.router.state.base import Batch, StateStore, StoreError, StoreLost
from paceline.wire.waiting import happens

log = structlog.get_logger()

RETRY_S = 5.0
REFRESH_S = 5.0


@dataclass(frozen=True, slots=True)
class ArmReport:
    """What is believed of one arm, for people.

    Attributes:
        pulls: discounted segments.
        mean: their speed relative to plain decoding, 0 without any.
        reward: their mean reward, which is what policies compare; 0 without any.
        bonus: that the policy grants it for being uncertain, on the scale of rewards.
    """

    arm: Arm
    pulls: float
    mean: float
    reward: float
    bonus: float


class Learner:
    """Chooses arms by a policy, and learns.

    Choices are made from memory. A task adds what was learnt to the store, a batch at a time; while the store fails,
    learning goes on in memory. A batch whose answer didn't come keeps its number and is sent again before anything that
    was learnt since, so the store adds it once. What other routers told a shared store comes back with each batch, and
    now and then while there is none.

    Args:
        policy: decides.
        store: keeps.
        random: draws for policies; None makes one.
        retry_s: pause after the store failed.
        refresh_s: pause between looks at a store that other routers may write to.
    """

    def __init__(
        self,
        policy: Policy,
        store: StateStore,
        random: np.random.Generator | None = None,
        retry_s: float = RETRY_S,
        refresh_s: float = REFRESH_S,
    ) -> None:
        self._policy = policy
        self._store = store
        self._random = random or np.random.default_rng()
        self._retry_s = retry_s
        self._refresh_s = refresh_s
        self._router = secrets.token_hex(8)
        self._nothing = Evidence.nothing(policy.shape.width)
        # What is known is the sum of these, one after the other: what the store had last, the batch that is under way,
        # and what was learnt since.
        self._stored: Knowledge = {}
        self._sent = Batch(self._router, 0, {})
        self._fresh: dict[str, Evidence] = {}
        self._current: dict[str, Evidence] = {}
        self._pending: dict[str, Counter[Arm]] = {}
        self._open = False
        self._warned = False
        self.num_store_failures = 0
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self, known: Knowledge | None = None) -> None:
        """Reads what was learnt before. Raises StoreError if the store can't be used.

        Args:
            known: what is known from elsewhere; it counts for models of which the store has a shorter history.
        """
        self._stored = await self._store.open(self._policy.shape, known or {})
        self._current = dict(self._stored)
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

    def succeed(self, other: Learner) -> None:
        """Takes over the segments that run: what `begin` told the other, `end` tells this one."""
        self._pending = other._pending

    @property
    def knowledge(self) -> Knowledge:
        """What is believed now."""
        return self._current

    @property
    def store_up(self) -> bool:
        """Whether the store could be used when it was last."""
        return not self._warned

    @property
    def wants_estimates(self) -> bool:
        """Whether the policy learns from what segments would have earned under other arms."""
        return self._policy.wants_estimates

    # Choosing

    def choose(self, model: str, arms: Sequence[Arm], context: tuple[float, ...] = NEUTRAL) -> Decision:
        """The policy's choice between arms of a model."""
        known = self._current.get(model, self._nothing)
        return decide(self._policy, known, arms, self._running(model, arms), context, self._random)

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
        sums = self._current.get(model, self._nothing).of_arms(arms)
        situation = Situation(arms, sums, self._running(model, arms), NEUTRAL)
        return [
            ArmReport(arm, float(weight), speed_of(float(mean)), float(mean), float(bonus))
            if weight > 0.0
            else ArmReport(arm, float(weight), 0.0, 0.0, float(bonus))
            for arm, weight, mean, bonus in zip(
                arms, situation.weights, situation.means, self._policy.bonuses(situation), strict=True
            )
        ]

    def _running(self, model: str, arms: Sequence[Arm]) -> np.ndarray:
        pending = self._pending.get(model)
        return np.zeros(len(arms)) if not pending else np.array([float(pending[arm]) for arm in arms])

    # Learning

    def learn(self, observation: Observation) -> None:
        """Counts at once for choices here, and soon in the store."""
        one = {observation.model: Evidence.of(self._policy.evidence(observation))}
        self._fresh = merged(self._fresh, one, self._policy.shape.discount)
        self._current = merged(self._current, one, self._policy.shape.discount)
        self._wake.set()

    async def _write(self) -> None:
        while True:
            while self._fresh or self._sent.learnt:
                closing = self._closing.is_set()
                if await self._told():
                    continue
                # That a connection is broken shows when it is used; the store may be there all the same.
                if closing and not await self._told():
                    return
                await self._pause()
            if self._closing.is_set():
                return
            await happens(self._wake, self._refresh_s)
            if not self._wake.is_set() and not await self._told():
                await self._pause()
            self._wake.clear()

    async def _pause(self) -> None:
        """Before the store is tried again; cut short by closing, which means two last tries."""
        await happens(self._closing, self._retry_s)

    async def _told(self) -> bool:
        """Adds what was learnt to the store, if anything was, and reads; False if the store failed."""
        try:
            try:
                await self._exchange()
            except StoreLost as lost:
                log.warning("the store has lost something; what is known here is put back", why=str(lost))
                self._open = False
                await self._exchange()
        except StoreError as error:
            self._open = False
            self.num_store_failures += 1
            if not self._warned:
                log.warning("nothing can be stored; choosing goes on from memory", why=str(error))
            self._warned = True
            return False
        if self._warned:
            log.info("the store is back")
        self._warned = False
        return True

    async def _exchange(self) -> None:
        if not self._open:
            self._read(await self._store.open(self._policy.shape, self._stored), whole=True)
            self._open = True
        if not self._sent.learnt and self._fresh:
            self._sent = Batch(self._router, self._sent.number + 1, self._fresh)
            self._fresh = {}
        if self._sent.learnt:
            seen = {model: self._stored[model].segments for model in self._sent.learnt if model in self._stored}
            found = await self._store.apply(replace(self._sent, seen=seen))
            self._sent = Batch(self._router, self._sent.number, {})
            self._read(found)
        else:
            self._read(self._complete(await self._store.read()), whole=True)

    def _complete(self, found: Knowledge) -> Knowledge:
        """Raises StoreLost if the store has less than it had."""
        had = {model: evidence.segments for model, evidence in self._stored.items()}
        if (had and not found) or any(found[model].segments < had.get(model, 0) for model in found):
            raise StoreLost("the store has less than was read there before")
        return found

    def _read(self, found: Knowledge, whole: bool = False) -> None:
        """The store has this, of some models or of all."""
        self._stored = found if whole else {**self._stored, **found}
        discount = self._policy.shape.discount
        self._current = merged(merged(self._stored, self._sent.learnt, discount), self._fresh, discount)
