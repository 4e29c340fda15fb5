"""Where one request may go: verifiers that fit, those that were tried, and how long to wait for others."""

from __future__ import annotations

from paceline.router.abilities import knows, newer_fields, unknown_to_all
from paceline.router.backend import Backend
from paceline.router.convert import trail_of
from paceline.router.countdown import TimeLeft
from paceline.router.failures import Verdict, VerifierError
from paceline.router.member import Member, Role
from paceline.router.wish import Wish
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError, Reason

BUSY_S = 0.5
MAX_IDLE_FAILURES = 3
MAX_ASKED = 4  # verifiers, for a drafter that they don't have


class Finding:
    """Finds verifiers for one request.

    Args:
        request: checked, with seed and request_id.
        wish: what it says of speculation.
        backend: shared parts.
        time_left: until the client's deadline.
    """

    def __init__(
        self, request: generation_pb2.GenerateRequest, wish: Wish, backend: Backend, time_left: TimeLeft
    ) -> None:
        self._trail = trail_of(request, backend.affinity)
        self._read_by = ""  # id of the verifier that sent tokens last
        self._started = False
        self._wish = wish
        self._backend = backend
        self._time_left = time_left
        self._model = request.model
        self._tokenizer_hash = ""
        self._newer_fields = newer_fields(request)
        self._busy: dict[str, float] = {}
        self._lacking: set[str] = set()  # verifiers without a drafter that the client named
        self._refusal: VerifierError | None = None
        self._failure: VerifierError | None = None
        self._idle_failures = 0
        self._ends_s: float | None = None  # until then verifiers are looked for, since one took the request up last

    async def verifier(self, num_relayed: int, complete: bool) -> Member | None:
        """One for what is left of the request; None if nothing is left and nobody there to say so.

        Args:
            num_relayed: tokens that the client has of this request.
            complete: these are all; only the end of the stream is missing.

        Raises:
            PacelineError: NO_VERIFIER, UNKNOWN_MODEL, INCOMPATIBLE_VERSION, OVERLOADED, VERIFIER_LOST.
            VerifierError: a refusal that the client should get as it is, or DEADLINE_EXCEEDED.
        """
        roster, clock = self._backend.roster, self._backend.clock
        if self._ends_s is None:
            self._ends_s = clock() + self._backend.failover_wait_s
        while True:
            verifier = roster.pick(self._candidates(), self._backend.affinity.credit(self._trail))
            if verifier is not None and self._idle_failures <= MAX_IDLE_FAILURES:
                self._model, self._tokenizer_hash = verifier.model, verifier.tokenizer_hash
                return verifier
            if complete:
                return None
            if not self._started and self._refusal is not None:
                raise self._refused(self._refusal)
            self._check_hope()
            wait_s = self._ends_s - clock()
            if wait_s <= 0.0 or self._idle_failures > MAX_IDLE_FAILURES:
                raise self._given_up(num_relayed)
            # Besides announcements, verifiers that were busy are tried again.
            with self._backend.metrics.waiting.track_inprogress():
                await roster.announcement(min(wait_s, BUSY_S, self._checked_time(num_relayed)))

    def another(self, beside: Member) -> Member | None:
        """The least loaded verifier for a second attempt: of the same model, not the same process, a session free."""
        free = [
            member
            for member in self._candidates()
            if member.member_id != beside.member_id
            and member.address != beside.address
            and member.tokenizer_hash == beside.tokenizer_hash
            and self._backend.roster.occupancy(member) < 1.0
        ]
        return self._backend.roster.pick(free)

    def elsewhere(self, verifier: Member) -> bool:
        """Whether another could take over."""
        return any(member.member_id != verifier.member_id for member in self._candidates())

    def started(self) -> None:
        """A verifier took the request up, and the client was told. It stays with its tokenizer, and an answer that has
        begun may go on without the drafters that the client named."""
        self._started = True
        self._ends_s = None
        self._lacking.clear()

    def advanced(self, verifier: Member, text: str) -> None:
        """Tokens came, so it has read the prompt."""
        self._idle_failures = 0
        self._trail.add(text.encode())
        if self._read_by != verifier.member_id:
            self._read_by = verifier.member_id
            self._backend.affinity.served(self._trail, verifier.member_id)

    def finished(self, verifier: Member) -> None:
        """The answer is complete, and the verifier could go on from it."""
        self._backend.affinity.finished(self._trail, verifier.member_id)

    def failed(self, verdict: Verdict, error: VerifierError, verifier: Member) -> None:
        """A verifier didn't do it. Raises the error if there is no use in trying others."""
        if verdict is Verdict.DRAFTER_ELSEWHERE:
            self._lacking.add(verifier.member_id)
            self._refusal = error
            if len(self._lacking) >= MAX_ASKED:
                raise error
        elif verdict is Verdict.BUSY:
            self._busy[verifier.member_id] = self._backend.clock() + BUSY_S
            self._refusal = error
        elif verdict is Verdict.LOST:
            self._failure = error
            self._idle_failures += 1

    @property
    def any_lost(self) -> bool:
        return self._failure is not None

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

    def _checked_time(self, num_relayed: int) -> float:
        """Seconds that are left, if the client has a deadline. Raises DEADLINE_EXCEEDED."""
        left_s = self._time_left()
        if left_s is None:
            return BUSY_S
        if left_s <= 0.0:
            raise time_is_up(num_relayed)
        return left_s

    def _refused(self, refusal: VerifierError) -> Exception:
        """What the client hears when all that were asked refused. When to come back, all of them together know best."""
        if refusal.reason is not Reason.OVERLOADED:
            return refusal
        return PacelineError(
            refusal.reason,
            refusal.message,
            field=refusal.field,
            value=refusal.value or None,
            retry_after_s=max(refusal.retry_after_s or 0.0, self._backend.roster.turned_away(self._model)),
        )

    def _given_up(self, num_relayed: int) -> PacelineError:
        waited = f"no verifier of {self._model or 'any model'} could take over"
        if self._failure is None:
            return PacelineError(
                Reason.NO_VERIFIER,
                f"{waited} within {self._backend.failover_wait_s:g} s; those registered failed lately",
                retry_after_s=1.0,
            )
        return PacelineError(
            Reason.VERIFIER_LOST,
            f"the verifier was lost after {num_relayed} tokens ({self._failure.message[:200]}) and "
            f"{waited}; repeat the request with the same seed and, in committed, the tokens you have",
            retry_after_s=self._backend.roster.turned_away(self._model),
        )


def time_is_up(num_relayed: int) -> VerifierError:
    """What a client hears at its deadline, if it still listens."""
    return VerifierError("DEADLINE_EXCEEDED", f"the request's time was up after {num_relayed} tokens")
