"""A new revision beside the one at work, until a router has found out which is better.

The drafter is there twice: as itself, and as one with another id and the new model that the router takes in its place
on a few requests. Verifiers tell the second of those requests alone (Hello.own).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from paceline.drafter.drafting import DraftModel
from paceline.drafter.identity import Identity
from paceline.drafter.revisions.follow import Unfit
from paceline.v1 import router_pb2

log = structlog.get_logger()

MODEL_CHECK_S = 0.5
ID_LENGTH = 8
MAX_ID = 200  # that routers and verifiers take
Verdict = router_pb2.TrialVerdict


class Presence(Protocol):
    """One identity at verifiers and routers."""

    def open(self) -> None:
        """Dials and announces."""

    async def close(self) -> None:
        """Says goodbye to everybody."""


class NewPresence(Protocol):
    """Makes the presence of an identity that drafts with these models."""

    def __call__(
        self, identity: Identity, models: Sequence[DraftModel], verdict: asyncio.Future[router_pb2.TrialVerdict]
    ) -> Presence: ...


def on_trial(identity: Identity, revision: str) -> Identity:
    """Who a drafter is while it tries a revision beside the one at work."""
    suffix = f"~trial-{revision[:ID_LENGTH]}"
    return replace(
        identity,
        drafter_id=f"{identity.drafter_id[: MAX_ID - len(suffix)]}{suffix}",
        name=f"{identity.name}{suffix}",
        own=True,
        revision=revision,
        trial_of=identity.drafter_id,
    )


@dataclass(frozen=True, slots=True)
class Trial:
    """How revisions are tried.

    Attributes:
        models: of the drafter itself, in the order of their strategies.
        new_presence: makes the second identity's.
    """

    models: Sequence[DraftModel]
    new_presence: NewPresence

    async def run(self, identity: Identity, revision: str, contenders: Mapping[str, DraftModel]) -> None:
        """Returns when the revision should take over; its models are at rest again then.

        Args:
            identity: of the drafter itself.
            revision: on trial.
            contenders: its models by strategy; the others are the drafter's own.

        Raises Unfit if the revision is worse.
        """
        verdict: asyncio.Future[router_pb2.TrialVerdict] = asyncio.get_running_loop().create_future()
        models = [contenders.get(model.lane.strategy, model) for model in self.models]
        presence = self.new_presence(on_trial(identity, revision), models, verdict)
        for model in contenders.values():
            model.lane.start()
        presence.open()
        log.info("revision on trial", revision=revision)
        try:
            found = await _decided(verdict, list(contenders.values()))
        finally:
            await presence.close()
            for model in contenders.values():
                await asyncio.to_thread(model.lane.stop)
        log.info("trial decided", revision=revision, outcome=Verdict.Outcome.Name(found.outcome), why=told(found))
        if found.outcome != Verdict.OUTCOME_BETTER:
            raise Unfit(told(found))


async def _decided(verdict: asyncio.Future[router_pb2.TrialVerdict], models: Sequence[DraftModel]) -> Verdict:
    """The router's word; a model that fails needs none."""
    while not verdict.done():
        await asyncio.wait({verdict}, timeout=MODEL_CHECK_S)
        if not verdict.done() and any(model.lane.num_failures for model in models):
            return Verdict(outcome=Verdict.OUTCOME_WORSE)
    return verdict.result()


def told(verdict: router_pb2.TrialVerdict) -> str:
    """For people, and as the reason of a withdrawal."""
    if not verdict.segments or not verdict.segments_before:
        return "it failed on trial"
    return (
        f"{verdict.mean_reward:.3f} times the speed of plain decoding over {verdict.segments} segments, "
        f"{verdict.mean_reward_before:.3f} over {verdict.segments_before} segments before"
    )
