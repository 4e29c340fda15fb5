"""The drafters of one request at one verifier: chosen, changed between segments, and learnt from."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog

from paceline.router.abilities import scores
from paceline.router.arms import PLAIN, Arm
from paceline.router.attribution import Attribution
from paceline.router.backend import Backend
from paceline.router.context import Prompt
from paceline.router.convert import MAX_SHADOWS, shadow_rewards, speculation_to_proto
from paceline.router.evidence import Observation
from paceline.router.failures import VerifierError
from paceline.router.member import Member
from paceline.router.policies.base import Decision
from paceline.router.reward import measured_speed, reward_of
from paceline.router.trial_seat import TrialSeat
from paceline.router.wish import Wish
from paceline.v1 import generation_pb2, types_pb2
from paceline.wire.errors import Reason
from paceline.wire.tracing import NO_SPAN, Span

log = structlog.get_logger()

MAX_GONE = 3


@dataclass(slots=True)
class Gone:
    """Drafters, by id or name, that verifiers said are not there, over one request."""

    drafters: set[str] = field(default_factory=set)

    def remaining(self, connected: dict[str, str]) -> dict[str, str]:
        """Names by id without them; nobody if too many were gone to go on trying."""
        if len(self.drafters) > MAX_GONE:
            return {}
        return {key: name for key, name in connected.items() if not self.drafters & {key, name}}


class Engagement:
    """Which drafters serve a request while it is at one verifier.

    Args:
        backend: shared parts.
        verifier: that runs the request.
        request_id: by which it knows it.
        wish: of the client.
        prompt: what the router looked at of the request's prompt, for policies.
        temperature: of the request.
        gone: drafters not to be tried (any more).
        continuing: the request began elsewhere. Then drafters the client named that aren't here are left out,
            because an answer that has begun must not end for want of a drafter.
        span: of the call; it hears what was chosen and what came of it.
    """

    def __init__(
        self,
        backend: Backend,
        verifier: Member,
        request_id: str,
        wish: Wish,
        prompt: Prompt,
        temperature: float,
        gone: Gone,
        continuing: bool,
        span: Span = NO_SPAN,
    ) -> None:
        self._span = span
        self._backend = backend
        self.verifier = verifier
        self._request_id = request_id
        self._wish = wish
        self._prompt = prompt
        self._temperature = temperature
        self._gone = gone
        self._engaging: asyncio.Task[None] | None = None
        self._pending: Arm | None = None
        self._decision: Decision
        self._accepted: float | None = None  # tokens a step that drafters had right in their last segment
        self._seat = TrialSeat(backend.trials)
        self._estimates: dict[Arm, list[float]] = {}  # that verifiers sent and nobody has learnt from
        self._shadow = self._shadows_wanted()
        connected = self._connected()
        named = wish.present(gone.remaining(backend.roster.drafters_at(verifier))) if continuing else wish.drafters
        if wish.free:
            arm = self._choose(connected)
            named = self._seat.named(arm, connected, self._trials())
        else:
            arm = Wish(off=not named, drafters=named).arm(backend.roster.known_drafters())
            self._decision = Decision(arm, probability=0.0, context=self._context())
        span.set({"paceline.arm": self._shown(arm)})
        self._attribution = Attribution(arm, backend.segment_tokens)
        self.speculation = speculation_to_proto(named, wish.budget(arm), self._shadow)

    def committed(self, num_tokens: int) -> None:
        """Tokens came from the verifier."""
        self._attribution.committed(num_tokens)

    def segment_ended(self, outcome: generation_pb2.Outcome) -> None:
        """Learns from a segment, and engages other drafters for the next if the policy wants others."""
        arm = self._attribution.segment_ended()
        self._seat.heard(outcome)
        connected = self._connected()
        self._hear_estimates(outcome, connected)
        speed = measured_speed(outcome.tokens, outcome.verify_s, outcome.wait_s, outcome.plain_s)
        told = {"paceline.tokens": outcome.tokens, "paceline.steps": outcome.steps, "paceline.speed": speed or 0.0}
        self._span.event("segment", {**told, "paceline.arm": "" if arm is None else self._shown(arm)})
        if arm is not None and speed is not None and self._wish.teaches(arm, connected):
            if not self._seat.replaces(arm):
                self._backend.metrics.rewarded(self.verifier.model, arm, reward_of(speed))
                self._backend.learner.learn(self._observation(arm, reward_of(speed)))
            self._seat.segment(arm, speed, connected, self._trials())
        if arm is not None and arm.drafters and outcome.steps:
            self._accepted = max(0.0, outcome.tokens / outcome.steps - 1.0)
        # A shorter segment was the last. After a mixture the arm stays, so that it is seen for a whole segment.
        if self._wish.free and outcome.tokens >= self._backend.segment_tokens:
            if arm is not None and not self._changing():
                self._change(self._choose(connected))
        else:
            self._settle()

    def drafter_gone(self, drafter: str) -> None:
        """The verifier refused the choice because it doesn't have this drafter."""
        known = set(self.speculation.drafters)
        self._gone.drafters.update({drafter} if drafter in known else known)

    async def close(self) -> None:
        """The request left this verifier."""
        self._settle()
        self._seat.close()
        if self._engaging is not None:
            self._engaging.cancel()
            await asyncio.gather(self._engaging, return_exceptions=True)

    def _connected(self) -> dict[str, str]:
        return self._gone.remaining(self._backend.roster.drafter_names(self.verifier))

    def _trials(self) -> dict[str, str]:
        """Ids of drafters on trial here by those they would replace, as far as they are there."""
        trials = self._backend.roster.trials_at(self.verifier)
        return {key: trial for key, trial in trials.items() if trial not in self._gone.drafters}

    def _choose(self, connected: dict[str, str]) -> Arm:
        self._settle()
        learner, model, context = self._backend.learner, self.verifier.model, self._context()
        self._decision = Decision(PLAIN, context=context)
        if connected:
            self._decision = learner.choose(model, self._backend.arms_for(connected.values()), context)
        self._pending = self._decision.arm
        self._backend.metrics.chosen(model, self._pending)
        learner.begin(model, self._pending)
        return self._pending

    def _context(self) -> tuple[float, ...]:
        load = self._backend.roster.occupancy(self.verifier)
        return self._prompt.context(self._temperature, load, self._accepted)

    def _observation(self, arm: Arm, reward: float) -> Observation:
        """A segment under an arm other than the one chosen last wasn't drawn by the policy: that one came too late."""
        decision = self._decision
        probability = decision.probability if arm == decision.arm else 0.0
        estimates = {other: sum(rewards) / len(rewards) for other, rewards in self._estimates.items()}
        self._estimates.clear()
        return Observation(self.verifier.model, arm, reward, probability, decision.context, estimates)

    def _shadows_wanted(self) -> int:
        """How many drafters that it doesn't engage the verifier may score on the request's text. Where the client
        chooses, its text is for those that it named."""
        learns = self._wish.free and not self._wish.max_nodes and self._backend.learner.wants_estimates
        return MAX_SHADOWS if learns and scores(self.verifier) else 0

    def _hear_estimates(self, outcome: generation_pb2.Outcome, connected: dict[str, str]) -> None:
        """They wait for a segment that says something about its own arm."""
        if not (self._shadow and outcome.shadows):
            return
        arms = set(self._backend.arms_for(connected.values()))
        for drafter_id, reward in shadow_rewards(outcome):
            arm = Arm((connected[drafter_id],)) if drafter_id in connected else PLAIN
            if arm != PLAIN and arm in arms:
                self._estimates.setdefault(arm, []).append(reward)

    def _settle(self) -> None:
        if self._pending is not None:
            self._backend.learner.end(self.verifier.model, self._pending)
            self._pending = None

    def _changing(self) -> bool:
        return self._engaging is not None and not self._engaging.done()

    def _change(self, arm: Arm) -> None:
        if arm != self._attribution.arm:
            named = self._seat.named(arm, self._connected(), self._trials())
            speculation = speculation_to_proto(named, self._wish.budget(arm), self._shadow)
            self._engaging = asyncio.create_task(self._engage(arm, speculation), name="engage")

    async def _engage(self, arm: Arm, speculation: types_pb2.Speculation) -> None:
        try:
            await self._backend.verifiers.engage(self.verifier.address, self._request_id, speculation)
        except VerifierError as error:
            # The request goes on under the arm it has; if it is the verifier that is lost, its stream will tell.
            if error.reason is Reason.UNKNOWN_DRAFTER:
                self._gone.drafters.update({error.value} & set(speculation.drafters))
            log.debug("drafters not changed", request_id=self._request_id, why=error.message)
            return
        self._span.event("drafters changed", {"paceline.arm": self._shown(arm)})
        self._attribution.changed(arm)

    def _shown(self, arm: Arm) -> str:
        """In a span: what clients named is theirs."""
        return str(arm) if self._wish.free else "off" if self._wish.off else "named by the client"
