"""What runs steps: a forward pass over all rows, the walk down each tree, compaction of the cache."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from paceline.verifier.acceptance import RULES
from paceline.verifier.model.batch import ROOT, SessionPlan, SessionResult, StepPlan, StepResult, TopRows
from paceline.verifier.model.blocks import BlockPool, KVSlot


@dataclass(frozen=True, slots=True)
class Scores:
    """What a forward pass says about the next tokens.

    Attributes:
        logits: [wanted, vocab], any float type.
        best: [wanted][at least 1] tokens of the greatest logits, greatest first, the lowest of equal ones first.
    """

    logits: torch.Tensor
    best: list[list[int]]

    def part(self, first: int, count: int) -> Scores:
        return Scores(self.logits[first : first + count], self.best[first : first + count])


class Runner(ABC):
    """The target model with its key-value cache, ready to run steps. One thread calls it at a time.

    Args:
        vocab_size: length of a row of logits.
        rule: name of the acceptance rule.

    Attributes:
        pool: who holds which block of the cache; there after `allocate`.
        max_session_rows: most rows of one session in one step.
    """

    max_session_rows: int

    def __init__(self, vocab_size: int, rule: str = "coupled") -> None:
        self.vocab_size = vocab_size
        self.pool = BlockPool(0)
        self._accept = RULES[rule]

    @property
    @abstractmethod
    def block_bytes(self) -> int:
        """Memory of one block of the cache."""

    @abstractmethod
    def allocate(self, num_blocks: int) -> None:
        """Makes the cache, empty. Memory is taken as blocks are first written. Raises MemoryError."""

    @abstractmethod
    def score(self, sessions: Sequence[SessionPlan], num_best: int) -> Scores:
        """Scores at the end of each complete chain and at each tree node, in order. num_best: 1 or more."""

    def forward(self, sessions: Sequence[SessionPlan]) -> torch.Tensor:
        """The logits of `score` alone."""
        return self.score(sessions, 1).logits

    @abstractmethod
    def _move(self, slot: KVSlot, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies cache rows of a session from positions to earlier ones, in order."""

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
        scores = self.score(plan.sessions, max(1, max((session.top_k for session in plan.sessions), default=1)))
        results: list[SessionResult] = []
        first = 0
        for session in plan.sessions:
            if not session.completes:
                self.commit(session.slot, len(session.chain), ())
                results.append(SessionResult((), ()))
                continue
            count = 1 + len(session.tree_tokens)
            result = self._walk(session, scores.part(first, count))
            first += count
            self.commit(session.slot, len(session.chain), result.accepted)
            results.append(result)
        return StepResult(tuple(results), time.perf_counter() - started, started)

    def commit(self, slot: KVSlot, num_chain: int, accepted: tuple[int, ...]) -> None:
        """Keeps the chain's rows and those of the accepted tree nodes, in path order; forgets the rest."""
        start = slot.length + num_chain
        slot.length = start + len(accepted)
        moved = [(start + node, start + index) for index, node in enumerate(accepted) if node != index]
        if moved:
            self._move(slot, [source for source, _ in moved], [target for _, target in moved])

    def _walk(self, session: SessionPlan, scores: Scores) -> SessionResult:
        """Acceptance. scores: of [1 + n] rows, the end of the chain first."""
        depth_of: dict[int, int] = {ROOT: 0}
        for node, parent in enumerate(session.tree_parents):
            depth_of[node] = depth_of[parent] + 1
        next_position = session.slot.length + len(session.chain)

        def pick(node: int) -> int:
            if session.sampler.greedy:
                return scores.best[node + 1][0]
            return session.sampler.pick(scores.logits[node + 1], next_position + depth_of[node])

        walk = self._accept(session.tree_tokens, session.tree_parents, pick)
        return SessionResult(walk.tokens, walk.accepted, _top(session, scores, walk.accepted))


def _top(session: SessionPlan, scores: Scores, accepted: tuple[int, ...]) -> TopRows | None:
    if session.top_k == 0:
        return None
    ids = [row[: session.top_k] for row in scores.best]
    if not session.want_log_probs:
        return TopRows(ids)
    path = [0, *(node + 1 for node in accepted)]
    logits = scores.logits[path].float()
    values = torch.gather(logits, 1, torch.tensor([ids[row] for row in path], device=logits.device))
    return TopRows(ids, (values - torch.logsumexp(logits, dim=-1, keepdim=True)).tolist())
