"""What a drafter's process drafts with, for all verifiers: its memory, its models, and what both have learned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from paceline.drafter.calibration import Calibration
from paceline.drafter.lane import ModelLane
from paceline.drafter.memory import Memory
from paceline.drafter.model_session import Growth, ModelSession
from paceline.drafter.model_worker import ModelWorker
from paceline.drafter.models.base import LoadedModel
from paceline.drafter.opening import Opening
from paceline.drafter.pace import Pace
from paceline.drafter.reading import Reader
from paceline.drafter.session import Lane, Sessions, Terms
from paceline.drafter.strategies.base import Context, Proposer, Sampling, ScopeBounds
from paceline.drafter.strategies.suffix import Suffix
from paceline.drafter.vocabulary.base import BridgeKind
from paceline.drafter.vocabulary.choice import choose
from paceline.drafter.vocabulary.store import BridgeStore
from paceline.wire.errors import PacelineError
from paceline.wire.vocabulary.base import Vocabulary

log = structlog.get_logger()

FetchTokenizer = Callable[[], Awaitable[str]]  # the target's tokenizer.json


@dataclass(slots=True)
class DraftModel:
    """A model at work.

    Attributes:
        vocabulary: its own.
        lane: its thread.
        bridge: name of the way to other vocabularies, or "auto".
        store: keeps what bridges learn; None: nothing is kept.
    """

    vocabulary: Vocabulary
    lane: ModelLane
    bridge: str
    store: BridgeStore | None = None
    _kinds: dict[str, BridgeKind] = field(default_factory=dict)  # by the target's tokenizer

    def kind(self, tokenizer_hash: str, target: Vocabulary) -> BridgeKind:
        """The way to that target's vocabulary, shared by all streams to it. Raises VOCABULARY_MISMATCH."""
        if tokenizer_hash not in self._kinds:
            kind = choose(target, self.vocabulary, self.bridge)
            if self.store is not None:
                self.store.restore(kind)
            self._kinds[tokenizer_hash] = kind
        return self._kinds[tokenizer_hash]

    def save(self) -> None:
        """What bridges have learned; on the lane's thread, or when that has ended."""
        if self.store is not None:
            for kind in self._kinds.values():
                self.store.save(kind)


@dataclass(frozen=True, slots=True)
class Workload:
    """How a model works; see `DrafterSettings`."""

    width: int
    bridge: str
    max_rows: int
    draft_ahead: bool
    guesses: bool = False
    store: BridgeStore | None = None


def draft_model(strategy: str, loaded: LoadedModel, growth: Growth, workload: Workload) -> DraftModel:
    """Puts a loaded model to work; `lane.start()` is the caller's."""
    vocabulary = read_vocabulary(loaded.tokenizer_json)
    model = loaded.model
    worker = ModelWorker(model, growth, Calibration(), workload.max_rows, workload.draft_ahead, time.perf_counter)

    def new_guesser(context: list[int]) -> Proposer:
        return Suffix(ScopeBounds(vocabulary.size, max_tokens=0)).begin(Context(context, 0, Sampling()))

    def new_session(kind: BridgeKind, opening: Opening) -> ModelSession:
        bridge = kind.begin(opening.tokens)
        reader = Reader(
            sampling=opening.sampling,
            size=min(vocabulary.size, model.vocab_size),
            width=workload.width,
            draws=growth.policy.draws,
            allowed=bridge.allowed,
            noise_ids=bridge.noise_ids,
        )
        return ModelSession(
            bridge,
            reader,
            model.new_cache(),
            growth,
            length=len(opening.tokens),
            max_length=min(model.max_length, workload.max_rows),
            new_guesser=new_guesser if workload.guesses else None,
        )

    return DraftModel(vocabulary, ModelLane(strategy, worker, new_session), workload.bridge, workload.store)


class Drafting:
    """Makes the state of each stream.

    Args:
        memory: of the strategies that need no model.
        models: in the order of their strategies.
        max_nodes: bound on a tree.
        ahead: reach further for verifiers that are far away.
    """

    def __init__(self, memory: Memory, models: Sequence[DraftModel], max_nodes: int, ahead: bool) -> None:
        self._memory = memory
        self._models = tuple(models)
        self._calibrations = [Calibration() for _ in range(memory.num_strategies)]
        self._max_nodes = max_nodes
        self._ahead = ahead
        self._targets: dict[str, Vocabulary] = {}

    async def sessions(self, terms: Terms, fetch_tokenizer: FetchTokenizer) -> Sessions:
        """For a stream that was welcomed. Raises VOCABULARY_MISMATCH if nothing here can draft for its target."""
        pace = Pace(self._ahead)
        sessions = Sessions(terms, self._memory, self._calibrations, self._max_nodes, time.perf_counter, pace)
        if not self._models:
            return sessions
        target = await self._target(terms, fetch_tokenizer)
        lanes: dict[int, Lane] = {}
        refusals: list[PacelineError] = []
        for index, model in enumerate(self._models):
            try:
                kind = await asyncio.to_thread(model.kind, terms.tokenizer_hash, target)
            except PacelineError as error:
                log.error("model can't draft for this target", strategy=model.lane.strategy, why=error.message)
                refusals.append(error)
            else:
                lanes[index] = model.lane.attach(kind, pace, partial(sessions.delivered, index))
        if refusals and not lanes and not self._calibrations:
            raise refusals[0]
        sessions.engage(lanes)
        return sessions

    async def _target(self, terms: Terms, fetch_tokenizer: FetchTokenizer) -> Vocabulary:
        if terms.tokenizer_hash not in self._targets:
            tokenizer = await fetch_tokenizer()
            # Parsing takes a while, and other streams go on.
            self._targets[terms.tokenizer_hash] = await asyncio.to_thread(read_vocabulary, tokenizer)
        return self._targets[terms.tokenizer_hash]


def read_vocabulary(tokenizer_json: str) -> Vocabulary:
    """Needs the package tokenizers, which a drafter without models doesn't have."""
    from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

    return TokenizerVocabulary(tokenizer_json)
