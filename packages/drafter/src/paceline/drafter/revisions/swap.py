"""Puts a revision to work: loaded in the background, tried if it shall be, then between two passes of the model."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

from paceline.drafter.drafting import DraftModel, ModelAtWork
from paceline.drafter.revisions.check import check_successor
from paceline.drafter.revisions.follow import Proposal
from paceline.wire.revision_folder import Revision

Load = Callable[[str, Path], ModelAtWork]
Try = Callable[[str, Mapping[str, ModelAtWork]], Awaitable[None]]


class Swapper:
    """The models of the strategies that follow a line.

    Args:
        models: by strategy, at work.
        load: a strategy's model of a revision's folder; called in a thread.
        current: the revision at work.
        kinds: of cards that the strategies take.
        targets: tokenizer hashes of the targets that are drafted for now.
        trial: returns when a revision, loaded for each strategy, may take over; None tries none.
    """

    def __init__(
        self,
        models: Mapping[str, DraftModel],
        load: Load,
        current: Revision | None,
        kinds: Collection[str],
        targets: Callable[[], Collection[str]],
        trial: Try | None = None,
    ) -> None:
        self._models = models
        self._load = load
        self._current = current
        self._kinds = kinds
        self._targets = targets
        self._trial = trial

    async def take(self, proposal: Proposal) -> None:
        """See `follow.Take`. Raises PacelineError for one that can't take over, Unfit for one that should not."""
        revision = proposal.revision
        check_successor(revision, self._current, self._kinds, self._targets())
        works = {strategy: await asyncio.to_thread(self._load, strategy, revision.folder) for strategy in self._models}
        if self._trial is not None and not proposal.returns:
            await self._trial(revision.revision_id, works)
        for strategy, model in self._models.items():
            await model.swap(works[strategy])
        self._current = revision
