"""The learner in force, which another can take the place of while requests run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import structlog

from paceline.router.arms import Arm
from paceline.router.context import NEUTRAL
from paceline.router.evidence import Evidence, Knowledge, Observation
from paceline.router.learner import ArmReport, Learner
from paceline.router.policies.base import Decision, Policy
from paceline.router.state.base import StateStore

log = structlog.get_logger()

COUNTS = 2  # width of evidence that is only weights and sums of rewards


class Learning:
    """A `Learner` whose policy can be changed.

    Each policy has a learner and a connection to the store of its own, since evidence of one is of no use to another. A
    change begins with what the store has of the new policy: what it learnt when it was in force last. Policies that
    know no more than weights and rewards begin with those that the one before knew, where that is the longer history.

    Args:
        policies: by name.
        name: of the policy to begin with; one of them.
        make_store: makes a connection to the store.
    """

    def __init__(
        self, policies: dict[str, Callable[[], Policy]], name: str, make_store: Callable[[], StateStore]
    ) -> None:
        self.name = name
        self.policies = policies
        self._make_store = make_store
        self._learner = Learner(policies[name](), make_store())
        self._past_failures = 0  # of the stores of learners before
        self._changing = asyncio.Lock()
        self._closing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Raises StoreError."""
        await self._learner.start()

    async def change(self, name: str) -> str:
        """Another policy, one of those known, from the next choice on; returns the name of the one before.

        What was learnt and not stored yet is stored afterwards, if that is possible. Raises StoreError, and changes
        nothing, if the store can't be read.
        """
        async with self._changing:
            before, old = self.name, self._learner
            if name == before:
                return before
            await asyncio.gather(*self._closing)  # this policy's last learner may have something to store yet
            policy = self.policies[name]()
            new = Learner(policy, self._make_store())
            try:
                await new.start(_counts(old.knowledge) if policy.shape.width == COUNTS else None)
            except BaseException:
                await new.close()
                raise
            new.succeed(old)
            self._past_failures += old.num_store_failures
            self.name, self._learner = name, new
            task = asyncio.create_task(old.close(), name="learner before")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
            log.info("policy changed", policy=name, before=before)
            return before

    async def close(self) -> None:
        await asyncio.gather(self._learner.close(), *self._closing)

    @property
    def store_up(self) -> bool:
        """Whether what is learnt could be stored when that was last tried."""
        return self._learner.store_up

    @property
    def num_store_failures(self) -> int:
        """Times that the store could not be used."""
        return self._past_failures + self._learner.num_store_failures

    @property
    def wants_estimates(self) -> bool:
        """Whether the policy in force learns from what segments would have earned under other arms."""
        return self._learner.wants_estimates

    def choose(self, model: str, arms: Sequence[Arm], context: tuple[float, ...] = NEUTRAL) -> Decision:
        return self._learner.choose(model, arms, context)

    def begin(self, model: str, arm: Arm) -> None:
        self._learner.begin(model, arm)

    def end(self, model: str, arm: Arm) -> None:
        self._learner.end(model, arm)

    def learn(self, observation: Observation) -> None:
        self._learner.learn(observation)

    def report(self, model: str, arms: Sequence[Arm]) -> list[ArmReport]:
        return self._learner.report(model, arms)


def _counts(knowledge: Knowledge) -> Knowledge:
    """The first two sums of every arm mean the same to all policies."""
    return {
        model: Evidence(evidence.segments, evidence.rows, evidence.sums[:, :COUNTS].copy())
        for model, evidence in knowledge.items()
    }
