"""Scores drafters that weren't engaged on text that is verified, in the background and within a budget.

For policies that learn of every arm from every segment. A stretch of text is replayed to one drafter at a time, as a
shadow session: the context before it, and then commits, as they would have come. Nothing of that is on a step's path:
it goes on only while the model computes or nobody runs, and it is given up as soon as requests queue, drafting rests,
or the drafter gets a session.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from paceline.verifier.allowance import Allowance
from paceline.verifier.convert import shadow_message
from paceline.verifier.engine import Engine
from paceline.verifier.hub import DrafterHub
from paceline.verifier.link import DrafterLink
from paceline.verifier.session import Session
from paceline.verifier.shadow_book import ShadowBook, ShadowScore, Stretch
from paceline.verifier.shadow_replay import Habits, Replay
from paceline.verifier.shadow_talk import ShadowTalk

log = structlog.get_logger()

ANSWER_TIMEOUT_S = 1.0  # who takes longer brings nothing to a step
MAX_BURST_S = 1.0  # of scoring, after a pause
MAX_DRAFTERS = 1024  # whose habits are remembered


@dataclass(slots=True)
class _Known:
    """Of one drafter: its habits, and when it was last scored."""

    habits: Habits
    scored_s: float = -1.0


class ShadowScorer:
    """A task that scores.

    Args:
        engine: serves; its costs and calibration are used.
        hub: connected drafters.
        book: text, and scores.
        memory_key: of a session, see `SessionOpened.memory_key`.
        new_id: of a session.
        share: of the time that scoring may take; 0 never scores.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        engine: Engine,
        hub: DrafterHub,
        book: ShadowBook,
        memory_key: Callable[[Session], bytes],
        new_id: Callable[[], int],
        share: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._hub = hub
        self._book = book
        self._memory_key = memory_key
        self._new_id = new_id
        self._budget = Allowance(share, MAX_BURST_S)
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._there = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        book.wake = self._there.set

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="shadows")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            stretch = self._book.next()
            if stretch is None:
                self._there.clear()
                await self._there.wait()
                continue
            begun_s = self._clock()
            try:
                await self._score_next(stretch)
            except Exception:
                log.exception("scoring failed", session=stretch.session.session_id)
            spent_s = self._clock() - begun_s
            self._engine.metrics.shadow_seconds.inc(spent_s)
            await asyncio.sleep(self._budget.overdraw(self._clock(), spent_s))

    async def _score_next(self, stretch: Stretch) -> None:
        """On the drafter whose turn it is, if there is one that has time."""
        link = self._choose(stretch)
        if link is None or not self._quiet:
            return
        drafter_id = link.info.drafter_id
        stretch.scored.add(drafter_id)
        known = self._known_of(drafter_id)
        known.scored_s = self._clock()
        score = await self._scored(stretch, link, known.habits)
        if score is not None:
            self._engine.metrics.shadow_scores.inc()
            self._book.keep(stretch.session.request.tenant, score)
        stretch.num_wanted -= 1
        if stretch.num_wanted > 0:
            self._book.put_back(stretch)

    def _choose(self, stretch: Stretch) -> DrafterLink | None:
        """The one that was scored least lately."""
        free = [
            link
            for link in self._hub.links.values()
            if link.idle and link.info.drafter_id not in stretch.scored and self._hub.may_shadow(link, stretch.session)
        ]
        return min(free, key=lambda link: self._known_of(link.info.drafter_id).scored_s, default=None)

    @property
    def _quiet(self) -> bool:
        """Nobody waits for what this takes."""
        return self._engine.num_queued == 0 and self._engine.pacing.drafting

    async def _scored(self, stretch: Stretch, link: DrafterLink, habits: Habits) -> ShadowScore | None:
        """None if it was given up."""
        session, info = stretch.session, link.info
        costs = self._engine.shadow_costs(stretch.num_sessions)
        room = session.request.max_tokens - (stretch.start - len(session.request.prompt))
        replay = Replay(stretch.text, stretch.length, room, link.sources, self._engine.calibration, habits, costs)
        key = self._memory_key(session) if info.knows_shadows else b""
        await self._engine.aside()
        begin = stretch.start - (len(stretch.before) if info.commit_top_k else 0)
        opened = shadow_message(session, self._new_id(), begin, key, costs.max_nodes, costs.least_value)
        talk = ShadowTalk(opened, self._clock)
        if begin < stretch.start:
            _go_on(talk, session, begin, stretch.before, info.commit_top_k)
        try:
            while not replay.done:
                link.shadow(talk)
                in_time = await _in_time(talk)
                await self._engine.aside()
                if talk.given_up or stretch.gone or not self._quiet:
                    return None
                if not in_time:
                    replay.silent()
                    break
                replay.heard(stretch.text)
                at = replay.at
                replay.answer(talk.answer)
                if not replay.done:
                    _go_on(talk, session, stretch.start + at, stretch.top_ids[at : replay.at], info.commit_top_k)
        finally:
            link.end_shadow(talk)
        return ShadowScore(info.drafter_id, info.name, replay.figures)

    def _known_of(self, drafter_id: str) -> _Known:
        known = self._known.get(drafter_id)
        if known is None:
            while len(self._known) >= MAX_DRAFTERS:
                self._known.pop(next(iter(self._known)))
            known = self._known[drafter_id] = _Known(Habits())
        return known


def _go_on(talk: ShadowTalk, session: Session, first: int, top_ids: Sequence[Sequence[int]], top_k: int) -> None:
    """Commits as many of the session's tokens as there are rows of the target's best, from one position on."""
    last = first + len(top_ids)
    talk.commit(session.tokens[first:last], top_k, top_ids, session.tokens[first - 1 : last - 1])


async def _in_time(talk: ShadowTalk) -> bool:
    """Whether the drafter answered, or gave up, before it is too late."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):  # wait_for loses a cancellation that comes with the answer
            await talk.answered()
    except TimeoutError:
        return False
    return True
