"""A drafter as others see it: an identity, with links to verifiers and leases at routers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from paceline.drafter import convert
from paceline.drafter.drafting import Drafting, DraftModel
from paceline.drafter.fleet import Fleet
from paceline.drafter.identity import Identity
from paceline.drafter.link import Link
from paceline.drafter.settings import DrafterSettings, split
from paceline.v1 import router_pb2
from paceline.wire.membership import Membership


class Presence:
    """One identity at verifiers and routers, from `open` to `close`.

    Args:
        settings: whom to dial, and how.
        identity: asked whenever it is told to somebody.
        drafting: makes the state of streams.
        on_verdict: called with what routers say of a trial.
    """

    def __init__(
        self,
        settings: DrafterSettings,
        identity: Callable[[], Identity],
        drafting: Drafting,
        on_verdict: Callable[[router_pb2.TrialVerdict], None] = lambda _verdict: None,
    ) -> None:
        fleet = self._fleet = make_fleet(settings, identity, drafting)
        self._membership: Membership | None = Membership(
            split(settings.router),
            settings,
            lambda: convert.member(identity()),
            lambda members: fleet.update(
                member.address for member in members if member.role == router_pb2.ROLE_VERIFIER
            ),
            on_verdict,
        )

    def open(self) -> None:
        """Dials verifiers and announces to routers; both go on until `close`."""
        self._fleet.update(())
        if self._membership is not None:
            self._membership.start()

    async def close(self) -> None:
        """Withdraws, and says goodbye to all verifiers. Again is harmless."""
        membership, self._membership = self._membership, None
        if membership is not None:
            await membership.leave()  # first, since a roster that comes in would open links again
        await self._fleet.close()


class Drafter:
    """Who drafts, with what.

    Args:
        settings: of the process.
        identity: its revision is that of the models, which may change.
        models: in the order of their strategies.
        drafting: with these models.
    """

    def __init__(
        self, settings: DrafterSettings, identity: Identity, models: Sequence[DraftModel], drafting: Drafting
    ) -> None:
        self.settings = settings
        self.models = tuple(models)
        self.drafting = drafting
        self._identity = identity

    @property
    def identity(self) -> Identity:
        """As it is now. With several revisions it tells none."""
        revisions = {model.revision for model in self.models if model.revision}
        return replace(self._identity, revision=revisions.pop() if len(revisions) == 1 else "")

    def presence(self) -> Presence:
        return Presence(self.settings, lambda: self.identity, self.drafting)

    def beside(
        self, identity: Identity, models: Sequence[DraftModel], verdict: asyncio.Future[router_pb2.TrialVerdict]
    ) -> Presence:
        """The presence of another identity, with other models and the same memory. See `revisions.trial`."""

        def decided(found: router_pb2.TrialVerdict) -> None:
            if not verdict.done():
                verdict.set_result(found)

        return Presence(self.settings, lambda: identity, self.drafting.with_models(models), decided)


def make_fleet(settings: DrafterSettings, identity: Callable[[], Identity], drafting: Drafting) -> Fleet:
    """The links to verifiers."""

    def new_link(address: str) -> Link:
        return Link(address, settings, identity, drafting.sessions, random.random)

    return Fleet(split(settings.verifiers), new_link)
