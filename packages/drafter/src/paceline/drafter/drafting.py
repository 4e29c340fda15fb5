"""What a drafter's process drafts with, for all verifiers: its memory, its models, and what both have learned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from paceline.drafter.calibration import Calibration
from paceline.drafter.feature_session import FeatureSession
from paceline.drafter.features import FeatureNeeds
from paceline.drafter.growing import Growth
from paceline.drafter.lane import ModelLane
from paceline.drafter.memory import Memory
from paceline.drafter.model_session import ModelSession
from paceline.drafter.model_worker import ModelWorker, Session
from paceline.drafter.models.base import LoadedModel
from paceline.drafter.opening import Opening
from paceline.drafter.pace import Pace
from paceline.drafter.reading import Reader
from paceline.drafter.session import Lane, Sessions, Terms
from paceline.drafter.strategies.base import Context, Proposer, Sampling, ScopeBounds
from paceline.drafter.strategies.suffix import Suffix
from paceline.drafter.vocabulary.base import BridgeKind
from paceline.drafter.vocabulary.choice import choose
from paceline.drafter.vocabulary.cut import Cut, CutVocabulary
from paceline.drafter.vocabulary.store import BridgeStore
from paceline.wire.errors import PacelineError
from paceline.wire.vocabulary.base import Vocabulary

log = structlog.get_logger()

FetchTokenizer = Callable[[], Awaitable[str]]  # the target's tokenizer.json


@dataclass(slots=True)
class DraftModel:
    """A model at work.

    Attributes:
        vocabulary: its own, or what it is of the target's.
        lane: its thread.
        bridge: name of the way to other vocabularies, or "auto"; a cut vocabulary has a way of its own.
        store: keeps what bridges learn; None: nothing is kept.
        needs: of the target's states; None: nothing.
    """

    vocabulary: Vocabulary | CutVocabulary
    lane: ModelLane
    bridge: str
    store: BridgeStore | None = None
    needs: FeatureNeeds | None = None
    _kinds: dict[str, BridgeKind] = field(default_factory=dict)  # by the target's tokenizer

    @property
    def has_tokenizer(self) -> bool:
        """Its own, which is to be compared with the target's."""
        return not isinstance(self.vocabulary, CutVocabulary)

    def kind(self, terms: Terms, target: Vocabulary | None) -> BridgeKind:
        """The way to that target's vocabulary, shared by all streams to it.

        Raises:
            PacelineError: VOCABULARY_MISMATCH, or UNUSABLE_REVISION if the verifier won't tell what a head needs.
        """
        if self.needs is not None:
            self.needs.check(terms.feature_layers, terms.hidden_size)
        if terms.tokenizer_hash not in self._kinds:
            self._kinds[terms.tokenizer_hash] = self._new_kind(terms, target)
        return self._kinds[terms.tokenizer_hash]

    def _new_kind(self, terms: Terms, target: Vocabulary | None) -> BridgeKind:
        if isinstance(self.vocabulary, CutVocabulary):
            return Cut(self.vocabulary, terms.tokenizer_hash, terms.vocab_size)
        assert target is not None, "fetched for models with tokenizers"
        kind = choose(target, self.vocabulary, self.bridge)
        if self.store is not None:
            self.store.restore(kind)
        return kind

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
    vocabulary = loaded.cut or read_vocabulary(loaded.tokenizer_json)
    model, needs = loaded.model, loaded.needs
    worker = ModelWorker(model, growth, Calibration(), workload.max_rows, workload.draft_ahead, time.perf_counter)
    max_length = min(model.max_length, workload.max_rows)

    def new_guesser(context: list[int]) -> Proposer:
        bounds = ScopeBounds(vocabulary.size + 1, max_tokens=0)  # a cut vocabulary has one id more for what was cut
        return Suffix(bounds).begin(Context(context, 0, Sampling()))

    def new_session(kind: BridgeKind, opening: Opening) -> Session:
        bridge, length = kind.begin(opening.tokens), len(opening.tokens)
        reader = Reader(
            sampling=opening.sampling,
            size=min(vocabulary.size, model.vocab_size),
            width=workload.width,
            draws=growth.policy.draws,
            allowed=bridge.allowed,
            noise_ids=bridge.noise_ids,
        )
        if needs is not None:
            return FeatureSession(bridge, reader, model.new_cache(), growth, length, max_length, needs)
        guesser = new_guesser if workload.guesses else None
        return ModelSession(bridge, reader, model.new_cache(), growth, length, max_length, guesser)

    return DraftModel(vocabulary, ModelLane(strategy, worker, new_session), workload.bridge, workload.store, needs)


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
        """For a stream that was welcomed. Raises VOCABULARY_MISMATCH or UNUSABLE_REVISION if nothing here can draft for
        its target."""
        pace = Pace(self._ahead)
        sessions = Sessions(terms, self._memory, self._calibrations, self._max_nodes, time.perf_counter, pace)
        if not self._models:
            return sessions
        compares = any(model.has_tokenizer for model in self._models)
        target = await self._target(terms, fetch_tokenizer) if compares else None
        lanes: dict[int, Lane] = {}
        refusals: list[PacelineError] = []
        for index, model in enumerate(self._models):
            try:
                kind = await asyncio.to_thread(model.kind, terms, target)
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
