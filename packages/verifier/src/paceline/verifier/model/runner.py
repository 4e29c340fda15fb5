"""What runs steps: a forward pass over all rows, the walk down each tree, compaction of the cache."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from paceline.verifier.acceptance import RULES, Walk
from paceline.verifier.grammar.mask import Mask
from paceline.verifier.model.batch import SessionPlan, SessionResult, StepPlan, StepResult, TopRows
from paceline.verifier.model.blocks import BlockPool, KVSlot
from paceline.verifier.model.features import Bits, Features, FeatureSource, take
from paceline.verifier.model.log_probs import TokenLogProbs, log_probs_of
from paceline.verifier.sampling import Sampler
from paceline.wire.errors import PacelineError


@dataclass(frozen=True, slots=True)
class Scores:
    """What a forward pass says about the next tokens.

    Attributes:
        logits: [wanted, vocab], any float type; [wanted, 0] if only the best were asked for.
        best: [wanted][at least 1] tokens of the greatest logits, greatest first, the lowest of equal ones first.
        features: [rows, layers, hidden] of all rows of the pass, wanted or not, if layers were asked for.
    """

    logits: torch.Tensor
    best: list[list[int]]
    features: Bits | None = field(default=None, kw_only=True)

    def part(self, first: int, count: int) -> Scores:
        """Of some wanted rows; without features."""
        return Scores(self.logits[first : first + count], self.best[first : first + count])

    def pick(self, row: int, sampler: Sampler, position: int, mask: Mask | None = None) -> int:
        """The token that the row's own sampler picks after it, at `position`, of those that the mask allows."""
        if sampler.greedy and mask is None:
            return self.best[row][0]
        return sampler.pick(self.logits[row], position, mask)

    def row(self, row: int) -> npt.NDArray[np.float32]:
        """A row's logits, [vocab], on the host."""
        return np.asarray(self.logits[row].float().cpu())

    def log_probs(self, rows: Sequence[int], count: int) -> list[list[float]]:
        """Of the `count` best tokens after each of these rows."""
        logits = self.logits[rows].float()
        values = torch.gather(logits, 1, torch.tensor([self.best[row][:count] for row in rows], device=logits.device))
        log_probs: list[list[float]] = (values - torch.logsumexp(logits, dim=-1, keepdim=True)).tolist()
        return log_probs


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays of a session's rows in the last step: `num_chain`, and tree nodes in the order of their path."""

    slot: KVSlot
    num_chain: int
    accepted: tuple[int, ...]


class Runner(ABC):
    """The target model with its key-value cache, ready to run steps. One thread calls it at a time.

    Args:
        vocab_size: length of a row of logits.
        rule: name of the acceptance rule.

    Attributes:
        pool: who holds which block of the cache; there after `allocate`.
        max_session_rows: most rows of one session in one step.
        feature_source: what hidden states it can give; None if it can't.
        product: how it multiplies matrices, where it has several ways.
    """

    max_session_rows: int
    product: str = ""
    feature_source: FeatureSource | None = None

    def __init__(self, vocab_size: int, rule: str = "coupled") -> None:
        self.vocab_size = vocab_size
        self.pool = BlockPool(0)
        self._accept = RULES[rule]

    @property
    @abstractmethod
    def block_bytes(self) -> int:
        """Memory of one block of the cache."""

    @abstractmethod
    def allocate(self, num_blocks: int, max_tokens: int | None = None) -> None:
        """Makes the cache, empty. On the CPU, memory is taken as blocks are first written.

        Args:
            num_blocks: of BLOCK_TOKENS tokens, for all sessions.
            max_tokens: longest context of a session, if not all blocks; for what is prepared by length.

        Raises:
            MemoryError: the message says what to lower.
        """

    @abstractmethod
    def score(
        self,
        sessions: Sequence[SessionPlan],
        num_best: int,
        best_only: bool = False,
        feature_layers: tuple[int, ...] = (),
    ) -> Scores:
        """Scores at the end of each complete chain and at each tree node, in order.

        Args:
            sessions: their parts of the step.
            num_best: 1 or more.
            best_only: nobody will look at the logits; the runner may leave them out.
            feature_layers: behind which hidden states are captured, of `feature_source`.
        """

    def forward(self, sessions: Sequence[SessionPlan]) -> torch.Tensor:
        """The logits of `score` alone."""
        return self.score(sessions, 1).logits

    @abstractmethod
    def _keep(self, kept: Sequence[Kept]) -> None:
        """Makes what is kept of the last `score` the end of each slot's committed tokens; the rest is forgotten."""

    def trim(self) -> None:  # noqa: B027 - not every cache can
        """Gives memory of the cache that nobody uses back to the system."""

    def new_slot(self, num_tokens: int) -> KVSlot:
        """A slot with room for `num_tokens` and one step's rows; for probes and tests. The pool takes it back."""
        slot = self.pool.open("", ())
        if not self.pool.reserve(slot, num_tokens + self.max_session_rows):
            raise MemoryError(f"the cache has no {num_tokens} tokens left")
        return slot

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> StepResult:
        """One forward pass over all rows of the plan, then acceptance, then the cache is compacted."""
        started = time.perf_counter()
        num_best = max(1, max((session.top_k for session in plan.sessions), default=1))
        best_only = not any(session.needs_logits for session in plan.sessions)
        layers = plan.feature_layers if any(session.want_features for session in plan.sessions) else ()
        scores = self.score(plan.sessions, num_best, best_only, layers)
        results: list[SessionResult] = []
        first = first_row = 0
        for session in plan.sessions:
            result = SessionResult((), ())
            if session.completes:
                count = 1 + len(session.tree_tokens)
                result = self._walk(session, scores.part(first, count))
                first += count
            if session.want_features and scores.features is not None:
                values = take(scores.features, first_row, len(session.chain), result.accepted)
                result = replace(result, features=Features(session.slot.length, layers, values))
            results.append(result)
            first_row += session.num_rows
        self._keep(
            [
                Kept(session.slot, len(session.chain), result.accepted)
                for session, result in zip(plan.sessions, results, strict=True)
            ]
        )
        return StepResult(tuple(results), time.perf_counter() - started, started)

    def commit(self, slot: KVSlot, num_chain: int, accepted: tuple[int, ...]) -> None:
        """Keeps the chain's rows and those of the accepted tree nodes, in path order; forgets the rest."""
        self._keep([Kept(slot, num_chain, accepted)])

    def _walk(self, session: SessionPlan, scores: Scores) -> SessionResult:
        """Acceptance. scores: of [1 + n] rows, the end of the chain first."""
        positions = session.pick_positions

        def pick(node: int) -> int:
            mask = None if session.masks is None else session.masks.after(node)
            return scores.pick(node + 1, session.sampler, positions[node + 1], mask)

        try:
            walk = self._accept(session.tree_tokens, session.tree_parents, pick)
            if session.masks is not None:
                session.masks.take(walk.tokens)
        except PacelineError as error:  # of this session's grammar
            return SessionResult((), (), error=error)
        top = _top(session, scores, walk.accepted)
        return SessionResult(walk.tokens, walk.accepted, top, log_probs=_log_probs(session, scores, walk))


def compacted(kept: Sequence[Kept]) -> Iterator[tuple[KVSlot, list[int], list[int]]]:
    """For caches into which a step writes all its rows behind the committed ones: slots with the positions to copy
    from and, earlier ones, to copy to, in order. Lengthens the slots."""
    for part in kept:
        start = part.slot.length + part.num_chain
        part.slot.length = start + len(part.accepted)
        moved = [(start + node, start + index) for index, node in enumerate(part.accepted) if node != index]
        if moved:
            yield part.slot, [source for source, _ in moved], [target for _, target in moved]


def best_first(first: Sequence[int], rows: Sequence[list[int]]) -> list[list[int]]:
    """See `Scores.best`. Which of several equal ones `topk` takes, and in what order, is not said: `first`, from
    `argmax`, is the lowest of the greatest. rows: [n][count] by `topk`."""
    return [
        [token, *(other for other in row if other != token)][: len(row)] for token, row in zip(first, rows, strict=True)
    ]


def _log_probs(session: SessionPlan, scores: Scores, walk: Walk) -> tuple[TokenLogProbs, ...]:
    count = session.log_probs
    if count is None:
        return ()
    path = [0, *(node + 1 for node in walk.accepted)]
    return tuple(log_probs_of(scores.row(row), token, count) for row, token in zip(path, walk.tokens, strict=True))


def _top(session: SessionPlan, scores: Scores, accepted: tuple[int, ...]) -> TopRows | None:
    if session.top_k == 0:
        return None
    ids = [row[: session.top_k] for row in scores.best]
    if not session.want_log_probs:
        return TopRows(ids)
    path = [0, *(node + 1 for node in accepted)]
    return TopRows(ids, scores.log_probs(path, session.top_k))
