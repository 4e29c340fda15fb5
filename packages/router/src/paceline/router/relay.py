"""One request's life: placed at a verifier, relayed, and carried on elsewhere if that verifier is lost.

A verifier's answer is a pure function of prompt, sampling and seed, and it goes on after given tokens as it
would have without the break. So failover is: ask another for the rest, and relay that.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import structlog

from paceline.router.abilities import knows, newer_fields, unknown_to_all
from paceline.router.backend import Backend
from paceline.router.convert import attempt_request, prompt_from_proto
from paceline.router.engagement import Engagement, Gone
from paceline.router.failures import Verdict, VerifierError, judge
from paceline.router.member import Member, Role
from paceline.router.totals import merge_outcomes
from paceline.router.wish import Wish
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError, Reason

log = structlog.get_logger()

BUSY_S = 0.5
MAX_IDLE_FAILURES = 3
MAX_ASKED = 4  # verifiers, for a drafter that they don't have


class Relay:
    """Answers one request, with whichever verifiers it takes.

    Args:
        request: checked, with seed and request_id.
        wish: what it says of speculation.
        backend: shared parts.
        time_left: seconds until the client's deadline, None if it has none.
    """

    def __init__(
        self,
        request: generation_pb2.GenerateRequest,
        wish: Wish,
        backend: Backend,
        time_left: Callable[[], float | None],
    ) -> None:
        self._request = request
        self._wish = wish
        self._prompt = prompt_from_proto(request)
        self._backend = backend
        self._time_left = time_left
        self._begun_s = backend.clock()
        self._model = request.model
        self._tokenizer_hash = ""
        self._started = False
        self._finished = False
        self._relayed: list[int] = []
        self._outcomes: list[generation_pb2.Outcome] = []  # of lost verifiers and, by segment, the present one
        self._num_lost_outcomes = 0
        self._gone = Gone()
        self._busy: dict[str, float] = {}
        self._newer_fields = newer_fields(request)
        self._lacking: set[str] = set()  # verifiers without a drafter that the client named
        self._refusal: VerifierError | None = None
        self._failure: VerifierError | None = None
        self._idle_failures = 0

    async def events(self) -> AsyncGenerator[generation_pb2.GenerateEvent]:
        """What the client gets.

        Raises:
            VerifierError: a refusal that the client should get as it is.
            PacelineError: NO_VERIFIER, UNKNOWN_MODEL, INCOMPATIBLE_VERSION, VERIFIER_LOST.
        """
        while not self._finished:
            verifier = await self._place()
            if verifier is None:
                yield self._finished_by_length()
                return
            async with aclosing(self._attempt(verifier)) as events:
                async for event in events:
                    yield event

    async def _attempt(self, verifier: Member) -> AsyncGenerator[generation_pb2.GenerateEvent]:
        """Events of one verifier for the client. Returns when the request ended or has to go elsewhere."""
        backend = self._backend
        self._model, self._tokenizer_hash = verifier.model, verifier.tokenizer_hash
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
        calls = backend.verifiers.generate(verifier.address, request, self._time_left())
        try:
            with backend.roster.placed(verifier):
                async with aclosing(calls) as events:
                    async for event in events:
                        relayed = self._take(event, engagement)
                        if relayed is not None:
                            yield relayed
            if not self._finished:
                raise VerifierError("UNAVAILABLE", "its stream ended before the answer did")
        except VerifierError as error:
            self._failed(error, verifier, engagement)
        finally:
            await engagement.close()

    def _take(self, event: generation_pb2.GenerateEvent, engagement: Engagement) -> generation_pb2.GenerateEvent | None:
        """What of a verifier's event goes to the client."""
        kind = event.WhichOneof("event")
        if self._finished:
            return None
        if kind == "started" and not self._started:
            self._started = True
            self._lacking.clear()  # from now on it may go on without the drafter
            return event
        if kind == "tokens":
            self._relayed.extend(event.tokens.ids)
            self._idle_failures = 0
            engagement.committed(len(event.tokens.ids))
            return event
        if kind == "outcome":
            self._outcomes.append(event.outcome)
            engagement.segment_ended(event.outcome)
        elif kind == "finished":
            self._finished = True
            if self._failure is not None:
                lost = self._outcomes[: self._num_lost_outcomes]
                event.finished.total.CopyFrom(self._total([*lost, event.finished.total]))
            return event
        return None

    def _total(self, outcomes: list[generation_pb2.Outcome]) -> generation_pb2.Outcome:
        return merge_outcomes(outcomes, len(self._relayed), self._backend.clock() - self._begun_s)

    # When a verifier fails

    def _failed(self, error: VerifierError, verifier: Member, engagement: Engagement) -> None:
        """Decides what a failed call means; raises it if it means the end."""
        if self._finished:
            return
        self._num_lost_outcomes = len(self._outcomes)
        may_drop = bool(engagement.speculation.drafters) and (self._wish.free or self._started)
        verdict = judge(error, may_drop=may_drop, named=bool(self._wish.drafters), continuing=self._started)
        if verdict is Verdict.REFUSED:
            raise error
        if verdict is Verdict.DRAFTER_ELSEWHERE:
            self._lacking.add(verifier.member_id)
            self._refusal = error
            if len(self._lacking) >= MAX_ASKED:
                raise error
        elif verdict is Verdict.DRAFTER_GONE:
            engagement.drafter_gone(error.value)
        elif verdict is Verdict.BUSY:
            self._busy[verifier.member_id] = self._backend.clock() + BUSY_S
            self._refusal = error
        else:
            self._backend.roster.failed(verifier)
            self._backend.verifiers.retire(verifier.address)
            self._failure = error
            self._idle_failures += 1
            log.warning(
                "verifier lost",
                verifier=verifier.member_id,
                request_id=self._request.request_id,
                after_tokens=len(self._relayed),
                why=f"{error.code}: {error.message}"[:200],
            )

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

    # Placement

    async def _place(self) -> Member | None:
        """A verifier for what is left of the request; None if nothing is left and nobody there to say so."""
        roster, clock = self._backend.roster, self._backend.clock
        deadline_s = clock() + self._backend.failover_wait_s
        while True:
            verifier = roster.pick(self._candidates())
            if verifier is not None and self._idle_failures <= MAX_IDLE_FAILURES:
                return verifier
            if self._complete():
                return None
            if not self._started and self._refusal is not None:
                raise self._refusal
            self._check_hope()
            remaining_s = deadline_s - clock()
            if remaining_s <= 0.0 or self._idle_failures > MAX_IDLE_FAILURES:
                raise self._given_up()
            # Besides announcements, verifiers that were busy are tried again.
            await roster.announcement(min(remaining_s, BUSY_S))

    def _candidates(self) -> list[Member]:
        now_s = self._backend.clock()
        fitting = [
            member
            for member in self._backend.roster.available()
            if self._model in ("", member.model)
            and (not self._started or member.tokenizer_hash == self._tokenizer_hash)
            and member.member_id not in self._lacking
            and knows(member, self._newer_fields)
        ]
        free = [member for member in fitting if now_s >= self._busy.get(member.member_id, now_s)]
        if not self._wish.drafters:
            return free
        having = [member for member in fitting if self._wish.met_by(self._backend.roster.drafters_at(member))]
        if self._started:
            return [member for member in free if member in having] or free
        # If none announced all of them: what a verifier announced may be older than the drafter that is named.
        return [member for member in having or fitting if member in free]

    def _check_hope(self) -> None:
        """Raises NO_VERIFIER, UNKNOWN_MODEL or INCOMPATIBLE_VERSION where waiting makes no sense."""
        if self._failure is not None or self._started:
            return
        verifiers = [member for member in self._backend.roster.members(Role.VERIFIER) if not member.draining]
        if not verifiers:
            raise PacelineError(
                Reason.NO_VERIFIER,
                "no verifier is registered; start one with: paceline-verifier serve --router HOST:PORT",
                retry_after_s=1.0,
            )
        models = sorted({member.model for member in verifiers})
        if self._model and self._model not in models:
            listed = ", ".join(models)
            raise PacelineError(
                Reason.UNKNOWN_MODEL,
                f"model is {self._model!r}; there are: {listed}",
                field="model",
                value=self._model,
                limit=listed,
            )
        hosts = [member for member in verifiers if self._model in ("", member.model)]
        if not any(knows(member, self._newer_fields) for member in hosts):
            raise unknown_to_all(hosts, self._newer_fields)

    def _given_up(self) -> PacelineError:
        waited = f"no verifier of {self._model or 'any model'} could take over"
        if self._failure is None:
            return PacelineError(
                Reason.NO_VERIFIER,
                f"{waited} within {self._backend.failover_wait_s:g} s; those registered failed lately",
                retry_after_s=1.0,
            )
        return PacelineError(
            Reason.VERIFIER_LOST,
            f"the verifier was lost after {len(self._relayed)} tokens ({self._failure.message[:200]}) and "
            f"{waited}; repeat the request with the same seed and, in committed, the tokens you have",
            retry_after_s=1.0,
        )
