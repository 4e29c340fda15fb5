"""What a drafting strategy is, and the values it exchanges with the session that drives it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from paceline.drafter.features import Features

if TYPE_CHECKING:
    from paceline.drafter.datastore.store import Datastore

Ids = npt.NDArray[np.int64]

ROOT = -1  # parent of a candidate that continues the context itself
NUM_BINS = 64  # calibration bins a strategy may use: 0 … NUM_BINS - 1


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the target's tokens are chosen. A strategy that has a distribution draws with the same noise."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TopK:
    """The target's best successors of certain tokens: tokens [n], successors [n, k] in descending order."""

    tokens: Ids
    successors: Ids


@dataclass(frozen=True, slots=True)
class Commit:
    """What one verification step added to a session; `length` and `digest` are the context's with it.

    step_s: from the verifier's step before to this one, in seconds; 0 if it doesn't say.
    features: of the target, for heads, if they were asked for and could be read."""

    session_id: int
    tokens: tuple[int, ...]
    length: int
    digest: int
    top_k: TopK | None = None
    step_s: float = 0.0
    features: Features | None = None


@dataclass(slots=True)
class Context:
    """The text of one session so far. The session appends to `tokens`; strategies only read."""

    tokens: list[int]
    prompt_tokens: int
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Resources:
    """What the process has opened for strategies to read: the same for all scopes, so it holds nobody's prompts."""

    datastore: Datastore | None = None


@dataclass(frozen=True, slots=True)
class ScopeBounds:
    """What one memory scope may hold, and what it can draw on.

    Attributes:
        vocab_size: token ids are below it.
        max_tokens: most tokens held between sessions.
        tokenizer_hash: of the target; token ids mean nothing under another one.
        resources: of the process.
    """

    vocab_size: int
    max_tokens: int
    tokenizer_hash: str = ""
    resources: Resources = field(default_factory=Resources)


@dataclass(frozen=True, slots=True)
class Budget:
    """How large a tree may be. A node whose path is less likely than `least_value` is not worth verifying."""

    max_nodes: int
    max_depth: int
    least_value: float = 0.0

    def floor(self, own: float) -> float:
        """Where a strategy whose own bound is `own` stops growing.

        Claims are corrected before they are compared with `least_value`, and may rise: half of it is left open.
        """
        return max(own, self.least_value / 2)


@dataclass(slots=True)
class Candidates:
    """A tree as one strategy proposes it, parents before children; one entry per node in each list.

    Attributes:
        tokens: token ids of the target.
        parents: index of the parent, `ROOT` for a continuation of the context.
        confidence: probability in (0, 1] that the node is right given that its parent is.
        bins: which kind of guess it is, in the strategy's own terms, for calibration.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    bins: list[int] = field(default_factory=list)

    def add(self, token: int, parent: int, confidence: float, bin_index: int) -> int:
        """Appends a node and returns its index."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.confidence.append(confidence)
        self.bins.append(bin_index)
        return len(self.tokens) - 1

    def __len__(self) -> int:
        return len(self.tokens)


class Proposer(Protocol):
    """One strategy at work on one session."""

    def observe(self, commit: Commit) -> None:
        """Hears of a commit; the context already holds its tokens."""

    def draft(self, budget: Budget) -> Candidates:
        """Candidate continuations of the context as it is now."""

    def end(self) -> None:
        """The session is complete: what is worth remembering goes into the scope."""


class Strategy(Protocol):
    """A way to draft, for all sessions of one memory scope.

    There is one instance for each memory key, and one for each session that has none. An instance knows nothing of
    others: whatever it proposes stems from the sessions that it was shown, which is how tenants are kept apart.
    """

    commit_top_k: ClassVar[int]
    """How many of the target's best successors it wants with each commit; 0 is none."""
    couples: ClassVar[bool]
    """Whether its claims know nothing of the request's noise, so that `coupling` corrects them. False: it draws."""

    def __init__(self, bounds: ScopeBounds) -> None: ...

    def begin(self, context: Context) -> Proposer:
        """Starts to draft for a session."""

    def aside(self) -> Strategy:
        """For a session that must leave nothing behind: knows what this one knows now, and what it is shown does not
        come here, as long as its proposers are not ended."""

    @property
    def num_remembered(self) -> int:
        """Tokens held beyond the end of a session; the process's memory bound is a bound on their sum."""
