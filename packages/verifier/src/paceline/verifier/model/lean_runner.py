"""Runs steps of Llama-like decoders with the lean decoder: few, fixed operations, one wait for the device a step.

Every forward pass has the same shape, whether it reads a prompt, decodes or verifies, so a row has the same bits in all
of them (see `lean`). Tokens are picked on the device, noise included; what comes back are picks, and the best tokens
and their log-probabilities if they are wanted, in one copy. The walk down each tree then needs nothing of the device.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import structlog
import torch

from paceline.verifier.grammar.mask import Mask
from paceline.verifier.model.batch import ROOT, SessionPlan, SessionResult, StepPlan, StepResult
from paceline.verifier.model.blocks import BLOCK_TOKENS, BlockPool, KVSlot
from paceline.verifier.model.decoder import DecoderWeights
from paceline.verifier.model.features import FeatureSource, bits_of
from paceline.verifier.model.lean import SEGMENT_TOKENS, Computed, LeanDecoder
from paceline.verifier.model.lean_step import SessionRows, StepShape, StepTensors
from paceline.verifier.model.paged import MAX_STEP_ROWS, block_bytes
from paceline.verifier.model.runner import Kept, Runner, Scores, best_first
from paceline.verifier.sampling import Sampler
from paceline.verifier.sampling_device import pick_rows

log = structlog.get_logger()

# On a GPU that waits for weights, 128 rows of a product cost what one does. Attention costs sessions x session_rows.
SHAPE = StepShape(rows=MAX_STEP_ROWS, sessions=8, session_rows=64, wanted=MAX_STEP_ROWS)


@dataclass(frozen=True, slots=True)
class PickedScores(Scores):
    """Scores with what was worked out on the device and has come back.

    Attributes:
        picks: [wanted] tokens that the sampler of each row's session picks after it.
        best_log_probs: [wanted][as `best`], or [wanted][0] if nobody wants them.
    """

    picks: list[int]
    best_log_probs: list[list[float]]

    def part(self, first: int, count: int) -> PickedScores:
        own = slice(first, first + count)
        return PickedScores(self.logits[own], self.best[own], self.picks[own], self.best_log_probs[own])

    def pick(self, row: int, sampler: Sampler, position: int, mask: Mask | None = None) -> int:
        return self.picks[row]

    def log_probs(self, rows: Sequence[int], count: int) -> list[list[float]]:
        return [self.best_log_probs[row][:count] for row in rows]


class LeanRunner(Runner):
    """See `Runner`. A step of any size runs; `score` takes what fits the shape at once, and raises ValueError for more.

    Args:
        weights: of the model, on the device that computes; used where they are.
        rule: name of the acceptance rule.
        shape: of all forward passes, with as many wanted rows as rows. Another one gives other bits.
        segment_tokens: see `LeanDecoder`.
    """

    def __init__(
        self,
        weights: DecoderWeights,
        rule: str = "coupled",
        shape: StepShape = SHAPE,
        segment_tokens: int = SEGMENT_TOKENS,
    ) -> None:
        super().__init__(weights.config.vocab_size, rule)
        self.max_session_rows = shape.session_rows
        self.feature_source = FeatureSource(weights.config.num_layers, weights.config.hidden_size)
        self._weights = weights
        self._shape = shape
        self._segment_tokens = segment_tokens
        self._decoder = LeanDecoder(weights, 0, BLOCK_TOKENS, segment_tokens)
        self._first_rows: dict[int, int] = {}  # by identity of the slot: where the last pass had its rows

    @property
    def block_bytes(self) -> int:
        return block_bytes(self._weights.config, self._weights.embedding.dtype)

    def allocate(self, num_blocks: int, max_tokens: int | None = None) -> None:
        """Also captures the graphs, on a GPU: one for each power of two of segments up to `max_tokens`."""
        room = num_blocks * BLOCK_TOKENS
        longest = min(room, max_tokens or room)
        self.pool = BlockPool(num_blocks)
        try:
            self._decoder = LeanDecoder(self._weights, num_blocks, longest, self._segment_tokens)
            self._decoder.warm_up([self._shape])
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"the GPU has no room for a cache of {room} tokens and for attending over {longest}; "
                "lower --kv-memory-mb or --context-length"
            ) from error

    @torch.inference_mode()
    def step(self, plan: StepPlan) -> StepResult:
        """See `Runner.step`. What doesn't fit the shape runs as several forward passes, one after the other."""
        started = time.perf_counter()
        results: list[SessionResult] = []
        for part in parts(plan.sessions, self._shape):
            results += super().step(StepPlan(part, plan.feature_layers)).sessions
        return StepResult(tuple(results), time.perf_counter() - started, started)

    @torch.inference_mode()
    def score(
        self,
        sessions: Sequence[SessionPlan],
        num_best: int,
        best_only: bool = False,
        feature_layers: tuple[int, ...] = (),
    ) -> PickedScores:
        step = self._decoder.step(self._shape)
        step.fill([_rows(session) for session in sessions])
        starts = [0]
        for session in sessions:
            starts.append(starts[-1] + session.num_rows)
        self._first_rows = {id(session.slot): first for session, first in zip(sessions, starts, strict=False)}
        computed = self._computed(step, feature_layers)
        features = None if computed.features is None else _on_its_way(computed.features)
        completing = [session for session in sessions if session.completes]
        if completing:
            # A copy, since the decoder writes the next step's logits to the same place.
            scores = _picked(computed.logits.clone(), completing, num_best)
        else:
            self._wait()  # the step's buffers are filled anew for the next one
            scores = PickedScores(computed.logits, [], [], [])
        # Either has waited for the device, so the features are here.
        return scores if features is None else replace(scores, features=bits_of(features))

    def _computed(self, step: StepTensors, feature_layers: tuple[int, ...]) -> Computed:
        """Without features from now on if the device has no memory to capture them: what drafters ask for must not
        fail steps."""
        if feature_layers and self.feature_source is not None:
            try:
                return self._decoder.compute(step, feature_layers)
            except torch.OutOfMemoryError as error:
                log.warning("no more hidden states for drafters: the GPU has no room to capture them", why=str(error))
                self.feature_source = None
                torch.cuda.empty_cache()
        return self._decoder.compute(step)

    def _wait(self) -> None:
        if self._weights.embedding.device.type == "cuda":
            torch.cuda.current_stream(self._weights.embedding.device).synchronize()

    def _keep(self, kept: Sequence[Kept]) -> None:
        moves: list[tuple[KVSlot, list[int]]] = []
        for part in kept:
            first = self._first_rows[id(part.slot)]
            after = first + part.num_chain
            moves.append((part.slot, [*range(first, after), *(after + node for node in part.accepted)]))
        self._decoder.cache.commit(moves)


def parts(sessions: Iterable[SessionPlan], shape: StepShape) -> list[tuple[SessionPlan, ...]]:
    """Sessions in their order, cut into as few parts as fit the shape one by one."""
    cut: list[list[SessionPlan]] = []
    num_rows = 0
    for session in sessions:
        num_rows += session.num_rows
        if not cut or len(cut[-1]) == shape.sessions or num_rows > shape.rows:
            cut.append([])
            num_rows = session.num_rows
        cut[-1].append(session)
    return [tuple(part) for part in cut]


def _on_its_way(features: torch.Tensor) -> torch.Tensor:
    """On the CPU, once the device has been waited for."""
    if features.device.type != "cuda":
        return features
    host = torch.empty(features.shape, dtype=features.dtype, pin_memory=True)
    return host.copy_(features, non_blocking=True)


def _rows(session: SessionPlan) -> SessionRows:
    num_chain = len(session.chain)
    parents = [*range(ROOT, num_chain - 1)]
    parents += [num_chain - 1 if parent == ROOT else num_chain + parent for parent in session.tree_parents]
    wanted = range(num_chain - 1, session.num_rows) if session.completes else ()
    return SessionRows(session.slot, (*session.chain, *session.tree_tokens), tuple(parents), tuple(wanted))


def _masks(sessions: Sequence[SessionPlan]) -> dict[int, Mask]:
    """By row. They are found while the device computes; a node without one is never gone to (`TreeMasks.known`)."""
    masks: dict[int, Mask] = {}
    first = 0
    for session in sessions:
        if session.masks is not None:
            masks |= {first + 1 + node: mask for node, mask in session.masks.known().items()}
        first += 1 + len(session.tree_tokens)
    return masks


def _picked(logits: torch.Tensor, sessions: Sequence[SessionPlan], num_best: int) -> PickedScores:
    """Picks and best tokens after each row, with one wait. logits: [all rows, vocab] of sessions that complete."""
    samplings = [session.sampler.sampling for session in sessions for _ in session.pick_positions]
    positions = [position for session in sessions for position in session.pick_positions]
    picks = pick_rows(logits, samplings, positions, _masks(sessions))
    first = torch.argmax(logits, dim=-1, keepdim=True)
    best = torch.topk(logits, num_best, dim=-1).indices if num_best > 1 else first
    columns = [picks[:, None], first, best]
    if any(session.want_log_probs for session in sessions):
        columns.append(logits.gather(1, best).float() - torch.logsumexp(logits.float(), dim=-1, keepdim=True))
    table = torch.cat([column.double() for column in columns], dim=1).cpu()  # float64 holds ids and float32 alike
    ids = table[:, : 2 + num_best].long()
    return PickedScores(
        logits,
        best_first(ids[:, 1].tolist(), ids[:, 2:].tolist()),
        ids[:, 0].tolist(),
        table[:, 2 + num_best :].tolist(),
    )
