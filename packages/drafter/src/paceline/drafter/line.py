"""The line of revisions that a drafter follows (`--trainer`, `--line`): the parts of `revisions`, put together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

from paceline.drafter.drafting import ModelAtWork
from paceline.drafter.loading import Loader
from paceline.drafter.models.strategies import MODEL_STRATEGIES, revision_of
from paceline.drafter.presence import Drafter
from paceline.drafter.revisions.cache import RevisionCache
from paceline.drafter.revisions.check import Terms, check_successor
from paceline.drafter.revisions.follow import Follower, Proposal, Take, first_revision
from paceline.drafter.revisions.swap import Swapper
from paceline.drafter.revisions.trial import Trial
from paceline.drafter.settings import DrafterSettings, split
from paceline.wire.revision_folder import Revision, open_revision
from paceline.wire.settings import StartupError
from paceline.wire.signature import verifier


class Line:
    """Use: `first` if there is no revision to begin with, then `follow`. Raises StartupError for what can't be used."""

    def __init__(self, settings: DrafterSettings) -> None:
        self._settings = settings
        self._kinds = {MODEL_STRATEGIES[name].takes for name in settings.following_strategies}
        verify = verifier(settings.public_key) if settings.public_key is not None else None
        self._terms = Terms(settings.line, verify)
        self._followers: list[Follower] = []
        folder = settings.revision_cache.expanduser()
        try:
            self._cache = RevisionCache(folder)
        except OSError as error:
            raise StartupError(f"--revision-cache {folder}: {error.strerror}") from error

    @property
    def num_refused(self) -> int:
        """Revisions that were not taken."""
        return sum(follower.num_refused for follower in self._followers)

    async def first(self) -> Revision:
        """The newest usable one; waits as long as there is none, or no trainer."""

        def make(take: Take) -> Follower:
            async def checked(proposal: Proposal) -> None:
                check_successor(proposal.revision, None, self._kinds, ())
                await take(proposal)

            return self._follower(checked, "")

        return await first_revision(make)

    async def follow(self, drafter: Drafter, loader: Loader) -> None:
        """For ever: what is new takes over in the drafter's models."""
        settings = self._settings
        (kind,) = self._kinds
        folder = revision_of(kind, drafter.settings.model_options)
        current = await asyncio.to_thread(open_revision, folder)
        following = {model.lane.strategy: model for model in drafter.models}
        following = {name: following[name] for name in settings.following_strategies}
        trial = Trial(drafter.models, drafter.beside)

        async def run_trial(revision: str, works: Mapping[str, ModelAtWork]) -> None:
            contenders = {name: loader.in_lane(name, work) for name, work in works.items()}
            await trial.run(drafter.identity, revision, contenders)

        # Nobody would choose between two that are somebody's own.
        tries = settings.trial and split(settings.router) and not settings.own
        swapper = Swapper(
            following,
            loader.work,
            current,
            self._kinds,
            lambda: drafter.drafting.targets,
            run_trial if tries else None,
        )
        await self._follower(swapper.take, current.revision_id).run()

    def _follower(self, take: Take, at_work: str) -> Follower:
        settings = self._settings
        follower = Follower(settings.trainer, settings, self._terms, self._cache, take, at_work, random.random)
        self._followers.append(follower)
        return follower
