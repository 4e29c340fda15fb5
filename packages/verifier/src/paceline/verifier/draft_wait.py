"""The wait for drafts before a step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from paceline.verifier.hub import DrafterHub
from paceline.verifier.link import DrafterLink
from paceline.verifier.outlook import Outlook
from paceline.verifier.session import Session
from paceline.verifier.waiting import MAX_WAIT_S, Pending, Waiting, worthwhile_wait
from paceline.wire.waiting import happens


class DraftWait:
    """Lets drafts arrive while that raises tokens per second.

    Args:
        hub: connected drafters.
        outlook: on the next step.
    """

    def __init__(self, hub: DrafterHub, outlook: Outlook) -> None:
        self._hub = hub
        self._outlook = outlook
        self._arrived = asyncio.Event()

    def stir(self) -> None:
        """A draft is there, or somebody came or went: whoever waits looks again."""
        self._arrived.set()

    async def over(self, sessions: Callable[[], Collection[Session]], hurry: Callable[[], bool]) -> float:
        """Returns when the step should start: the seconds that were waited.

        Args:
            sessions: that have a part in the step, as of now.
            hurry: whether there is better to do than to wait, as of now.
        """
        started = time.perf_counter()
        while True:
            await asyncio.sleep(0)  # let messages that are here be handled
            left_s = started + MAX_WAIT_S - time.perf_counter()
            wait_s, awaited = (0.0, []) if hurry() else self._worthwhile(sessions())
            wait_s = min(left_s, wait_s)
            if wait_s <= 0.0:
                break
            self._arrived.clear()
            if not await happens(self._arrived, wait_s):
                for link, session in awaited:
                    link.overdue(session)
                break
        for session in sessions():
            for link in self._hub.serving(session):
                link.passed_over(session)
        return time.perf_counter() - started

    def _worthwhile(self, sessions: Collection[Session]) -> tuple[float, list[tuple[DrafterLink, Session]]]:
        """How long to wait, and for whom."""
        awaited: list[tuple[DrafterLink, Session]] = []
        pending: dict[int, list[Pending]] = {}
        if not self._outlook.pacing.drafting:
            return 0.0, awaited
        for session in sessions:
            if not session.decoding:
                return 0.0, awaited  # a prompt is being read; drafts arrive meanwhile
            for link in self._hub.serving(session):
                owed = link.pending(session)
                if owed:
                    pending.setdefault(session.session_id, []).extend(owed)
                    awaited.append((link, session))
        if not pending:
            return 0.0, awaited
        promise, tokens = self._outlook.of_step(sessions)
        waiting = [Waiting(of_session, pending.get(session_id, ())) for session_id, of_session in tokens.items()]
        return worthwhile_wait(waiting, promise.seconds), awaited
