"""What one forward pass is asked and what it answers: plain values, no tensors of the model."""

from __future__ import annotations

from dataclasses import dataclass, field

from paceline.verifier.grammar.tree_masks import TreeMasks
from paceline.verifier.model.blocks import KVSlot
from paceline.verifier.model.features import Features
from paceline.verifier.model.log_probs import TokenLogProbs
from paceline.verifier.sampling import Sampler
from paceline.wire.errors import PacelineError

ROOT = -1


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """One session's rows in a step.

    The rows are `chain` (committed tokens that are not yet in the cache, a stretch of the prompt or the one token that
    the last step ended with) and below it a tree of candidates.

    Attributes:
        slot: the session's place in the KV cache, with room for the step's rows.
        chain: committed tokens at positions slot.length, slot.length + 1, …; at least one.
        completes: the chain ends with the last committed token, so the step yields new tokens. If not, it only
            fills the cache, and there is no tree.
        tree_tokens: [n] candidates below the end of the chain, parents before children.
        tree_parents: [n] index into the tree, `ROOT` for the end of the chain.
        sampler: how this session picks tokens.
        top_k: how many of the target's best tokens to report at each verified position; 0 reports none.
        want_log_probs: report log-probabilities with them.
        want_features: report the hidden states of the rows that stay.
        log_probs: how many of the likeliest tokens to tell with each new token's log-probability; None tells nothing.
        masks: which tokens may follow the chain's end and each tree node, if not all. Not a value as the rest is: it
            belongs to the model's thread, and moves on with what the step commits.
    """

    slot: KVSlot
    chain: tuple[int, ...]
    completes: bool
    tree_tokens: tuple[int, ...]
    tree_parents: tuple[int, ...]
    sampler: Sampler
    top_k: int = 0
    want_log_probs: bool = False
    want_features: bool = False
    log_probs: int | None = None
    masks: TreeMasks | None = None

    @property
    def needs_logits(self) -> bool:
        """Whether the best tokens alone don't do."""
        asked = self.want_log_probs or self.log_probs is not None or self.masks is not None
        return self.completes and (asked or not self.sampler.greedy)

    @property
    def num_rows(self) -> int:
        return len(self.chain) + len(self.tree_tokens)

    @property
    def pick_positions(self) -> list[int]:
        """[1 + n] where the token stands that is picked after the chain's end, and after each tree node."""
        positions = [self.slot.length + len(self.chain)]
        for parent in self.tree_parents:
            positions.append(positions[parent + 1] + 1)
        return positions


@dataclass(frozen=True, slots=True)
class TopRows:
    """The target's best successors at the positions of a step.

    Row 0 belongs to the end of the chain, row 1 + i to tree node i.

    Attributes:
        ids: [1 + n][k] token ids, best first.
        log_probs: [accepted + 1][k] for the accepted path only (end of chain first), or empty.
    """

    ids: list[list[int]]
    log_probs: list[list[float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SessionResult:
    """What a step brought one session.

    Attributes:
        tokens: newly committed tokens: the accepted candidates and the target's own token after them. Empty if the
            plan did not complete.
        accepted: indices of the accepted tree nodes, along the path.
        top: if asked for.
        features: if asked for: of the chain's positions and those of the accepted candidates.
        log_probs: of each new token, if asked for.
        error: what the session fails with, alone; there are no tokens then.
    """

    tokens: tuple[int, ...]
    accepted: tuple[int, ...]
    top: TopRows | None = None
    features: Features | None = None
    log_probs: tuple[TokenLogProbs, ...] = ()
    error: PacelineError | None = None


@dataclass(frozen=True, slots=True)
class StepPlan:
    """The sessions of a step, and the layers behind which hidden states are captured for those that want them."""

    sessions: tuple[SessionPlan, ...]
    feature_layers: tuple[int, ...] = ()

    @property
    def num_rows(self) -> int:
        return sum(plan.num_rows for plan in self.sessions)


@dataclass(frozen=True, slots=True)
class StepResult:
    """Results in the order of the plan; when the step began (perf_counter) and how long it took: forward, walk and
    compaction."""

    sessions: tuple[SessionResult, ...]
    seconds: float
    started_s: float = 0.0
