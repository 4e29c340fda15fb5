"""One request's life: placed at a verifier, relayed, and carried on elsewhere if that verifier is lost.

A verifier's answer is a pure function of prompt, sampling and seed, and it goes on after given tokens as it
would have without the break. So failover is: ask another for the rest, and relay that. For the same reason two
verifiers may be asked at once, and whoever is first is relayed (`hedging.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from typing import NamedTuple

import structlog

from paceline.router.backend import Backend
from paceline.router.convert import attempt_request, prompt_from_proto
from paceline.router.countdown import TimeLeft
from paceline.router.engagement import Engagement, Gone
from paceline.router.failures import Verdict, VerifierError, judge
from paceline.router.finding import Finding, time_is_up
from paceline.router.member import Member
from paceline.router.roster import Place
from paceline.router.totals import merge_outcomes
from paceline.router.watch import Watch
from paceline.router.wish import Wish
from paceline.v1 import generation_pb2

log = structlog.get_logger()


class Said(NamedTuple):
    """An event with whose it is, and with the step that brought it, if it has tokens and steps were asked for.

    A step goes with its tokens or not at all: they may never come, and another verifier's step brings them then.
    """

    engagement: Engagement
    event: generation_pb2.GenerateEvent
    step: generation_pb2.GenerateEvent | None = None


class Relay:
    """Answers one request, with whichever verifiers it takes.

    Args:
        request: checked, with seed and request_id.
        wish: what it says of speculation.
        backend: shared parts.
        time_left: until the client's deadline.
    """

    def __init__(
        self, request: generation_pb2.GenerateRequest, wish: Wish, backend: Backend, time_left: TimeLeft
    ) -> None:
        self._request = request
        self._wish = wish
        self._prompt = prompt_from_proto(request)
        self._backend = backend
        self._time_left = time_left
        self._finding = Finding(request, wish, backend, time_left)
        self._begun_s = backend.clock()
        self._started = False
        self._finished = False
        self._relayed: list[int] = []
        self._outcomes: list[generation_pb2.Outcome] = []  # of lost verifiers and, by segment, the present one
        self._num_lost_outcomes = 0
        self._gone = Gone()

    async def events(self) -> AsyncGenerator[generation_pb2.GenerateEvent]:
        """What the client gets.

        Raises:
            VerifierError: a refusal that the client should get as it is; DEADLINE_EXCEEDED.
            PacelineError: see `Finding.verifier`.
        """
        while not self._finished:
            verifier = await self._finding.verifier(len(self._relayed), self._complete())
            if verifier is None:
                yield self._finished_by_length()
                return
            with ExitStack() as places:
                async with aclosing(self._said(verifier, places)) as events:
                    async for said in events:
                        relayed = self._take(said.event, said.engagement)
                        if relayed is not None and said.step is not None:
                            yield said.step
                        if relayed is not None:
                            yield relayed

    def _said(self, verifier: Member, places: ExitStack) -> AsyncGenerator[Said]:
        """What a verifier says, or, if its first token is late, what the first of two says. `places` are theirs."""
        first = self._attempt(verifier, places.enter_context(self._backend.roster.place(verifier)))
        if self._relayed or not self._backend.hedging.on:
            return first
        return self._backend.hedging.race(first, lambda: self._second(verifier, places), _decides)

    def _second(self, beside: Member, places: ExitStack) -> AsyncGenerator[Said] | None:
        verifier = self._finding.another(beside)
        if verifier is None:
            return None
        log.info("second verifier asked", verifier=verifier.member_id, request_id=self._request.request_id)
        return self._attempt(verifier, places.enter_context(self._backend.roster.place(verifier)), spare=True)

    async def _attempt(self, verifier: Member, place: Place, spare: bool = False) -> AsyncGenerator[Said]:
        """Events of one verifier. Returns when the request ended or has to go elsewhere.

        Args:
            verifier: that is asked.
            place: of the request there; left when this ends.
            spare: another was asked before, so until this one has a token its refusal isn't the request's end.
        """
        backend = self._backend
        engagement = Engagement(
            backend,
            verifier,
            self._request.request_id,
            self._wish,
            self._prompt,
            self._request.sampling.temperature,
            self._gone,
            continuing=self._started,
        )
        request = attempt_request(
            self._request, verifier.model, self._relayed, engagement.speculation, backend.segment_tokens
        )
        roster = backend.roster
        watch = Watch(
            roster.registry.lease_s,
            backend.accept_s,
            lambda: roster.announced_s(verifier),
            lambda: self._finding.elsewhere(verifier),
        )
        calls = backend.verifiers.generate(verifier.address, request, self._time_left(), watch)
        step: generation_pb2.GenerateEvent | None = None
        try:
            with place:
                async with aclosing(calls) as events:
                    async for event in events:
                        place.taken_up = True
                        if event.HasField("step"):
                            step = event
                            continue
                        yield Said(engagement, event, step)
                        step = None
            if not self._finished:
                raise VerifierError("UNAVAILABLE", "its stream ended before the answer did")
        except VerifierError as error:
            self._failed(error, verifier, engagement, spare)
        finally:
            await engagement.close()

    def _take(self, event: generation_pb2.GenerateEvent, engagement: Engagement) -> generation_pb2.GenerateEvent | None:
        """What of a verifier's event goes to the client."""
        kind = event.WhichOneof("event")
        if self._finished:
            return None
        if kind == "started":
            self._finding.started()
            again, self._started = self._started, True
            return None if again else event
        if kind == "tokens":
            self._relayed.extend(event.tokens.ids)
            self._finding.advanced(engagement.verifier, event.tokens.text)
            engagement.committed(len(event.tokens.ids))
            return event
        if kind == "outcome":
            self._outcomes.append(event.outcome)
            engagement.segment_ended(event.outcome)
        elif kind == "finished":
            self._finished = True
            self._finding.finished(engagement.verifier)
            if self._finding.any_lost:
                lost = self._outcomes[: self._num_lost_outcomes]
                event.finished.total.CopyFrom(self._total([*lost, event.finished.total]))
            return event
        return None

    def _total(self, outcomes: list[generation_pb2.Outcome]) -> generation_pb2.Outcome:
        return merge_outcomes(outcomes, len(self._relayed), self._backend.clock() - self._begun_s)

    def _failed(self, error: VerifierError, verifier: Member, engagement: Engagement, spare: bool) -> None:
        """Decides what a failed call means; raises it if it means the end."""
        if self._finished:
            return
        self._num_lost_outcomes = len(self._outcomes)
        may_drop = bool(engagement.speculation.drafters) and (self._wish.free or self._started)
        verdict = judge(error, may_drop=may_drop, named=bool(self._wish.drafters), continuing=self._started)
        if spare and not self._relayed and verdict in (Verdict.REFUSED, Verdict.DRAFTER_ELSEWHERE):
            return
        if verdict is Verdict.REFUSED:
            raise time_is_up(len(self._relayed)) if error.code == "DEADLINE_EXCEEDED" else error
        if verdict is Verdict.DRAFTER_GONE:
            engagement.drafter_gone(error.value)
        if verdict is Verdict.LOST:
            self._backend.roster.failed(verifier)
            self._backend.verifiers.retire(verifier.address)
            log.warning(
                "verifier lost",
                verifier=verifier.member_id,
                request_id=self._request.request_id,
                after_tokens=len(self._relayed),
                why=f"{error.code}: {error.message}"[:200],
            )
        self._finding.failed(verdict, error, verifier)

    def _complete(self) -> bool:
        """All tokens were relayed; only the end of the stream is missing."""
        committed = len(self._request.committed.ids) + len(self._relayed)
        return self._started and 0 < self._request.limits.max_tokens <= committed

    def _finished_by_length(self) -> generation_pb2.GenerateEvent:
        self._finished = True
        finished = generation_pb2.Finished(
            reason=generation_pb2.FINISH_REASON_LENGTH, total=self._total(self._outcomes)
        )
        return generation_pb2.GenerateEvent(finished=finished)


def _decides(said: Said) -> bool:
    """Which of two verifiers goes on: the first with tokens, or with an answer that has none."""
    return said.event.WhichOneof("event") in ("tokens", "finished")
