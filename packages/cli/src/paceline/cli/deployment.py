"""A deployment as values, as a router tells of it; what tables show and --json prints."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Candidates:
    """Candidates that were verified, and those of them that became output."""

    proposed: int = 0
    accepted: int = 0

    def since(self, before: Candidates) -> Candidates:
        """Of these, those that came after."""
        return Candidates(self.proposed - before.proposed, self.accepted - before.accepted)

    def and_also(self, others: Candidates) -> Candidates:
        return Candidates(self.proposed + others.proposed, self.accepted + others.accepted)

    @property
    def share(self) -> float | None:
        """Accepted of proposed; None if there were none."""
        return self.accepted / self.proposed if self.proposed else None


@dataclass(frozen=True, slots=True)
class Work:
    """What a verifier has done since it started; see VerifierWork in router.proto."""

    clock_s: float
    prompt_tokens: int = 0
    generated_tokens: int = 0
    session_steps: int = 0
    candidates: Candidates = Candidates()
    running: int = 0
    queued: int = 0
    drafters: dict[str, Candidates] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verifier:
    """drafters: names of those connected. work: None if it doesn't tell (before protocol 1.5)."""

    id: str
    name: str
    address: str
    model: str
    load: int
    capacity: int
    draining: bool
    drafters: tuple[str, ...]
    version: str
    protocol: str
    work: Work | None


@dataclass(frozen=True, slots=True)
class Drafter:
    """verifiers: names of those it is connected to. trial_of: id of the drafter that it would replace."""

    id: str
    name: str
    strategies: tuple[str, ...]
    revision: str
    own: bool
    trial_of: str
    draining: bool
    verifiers: tuple[str, ...]
    version: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Trainer:
    id: str
    name: str
    address: str
    version: str
    protocol: str


@dataclass(frozen=True, slots=True)
class Arm:
    """What the router chooses between. speed: relative to plain decoding; None while nothing is known.
    bonus: what the policy adds for uncertainty; None if it is yet to be tried."""

    model: str
    drafters: tuple[str, ...]
    max_nodes: int
    segments: float
    speed: float | None
    bonus: float | None

    @property
    def label(self) -> str:
        return ("+".join(self.drafters) or "none") + (f" <= {self.max_nodes}" if self.max_nodes else "")


@dataclass(frozen=True, slots=True)
class Deployment:
    """All of it. router: its address; version, protocol: the router's own."""

    router: str
    version: str
    protocol: str
    policy: str
    active_requests: int
    finished_requests: int
    verifiers: tuple[Verifier, ...] = ()
    drafters: tuple[Drafter, ...] = ()
    trainers: tuple[Trainer, ...] = ()
    arms: tuple[Arm, ...] = ()

    def candidates_of(self, name: str) -> Candidates:
        """Of all drafters of this name, at all verifiers that tell."""
        total = Candidates()
        for verifier in self.verifiers:
            if verifier.work is not None:
                total = total.and_also(verifier.work.drafters.get(name, Candidates()))
        return total
