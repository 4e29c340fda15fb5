"""What a drafter's process drafts with, for all verifiers: its memory, its models, and what both have learned."""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog

from paceline.drafter.calibration import Calibration
from paceline.drafter.feature_session import FeatureSession
from paceline.drafter.features import FeatureNeeds
from paceline.drafter.growing import Growth
from paceline.drafter.lane import ModelLane, NewSession
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
from paceline.drafter.vocabulary.borrowing import MAX_BORROWED, BorrowingBridge
from paceline.drafter.vocabulary.choice import choose
from paceline.drafter.vocabulary.cut import Cut, CutBridge, CutVocabulary
from paceline.drafter.vocabulary.store import BridgeStore
from paceline.drafter.vocabulary.way import DraftVocabulary, Way
from paceline.drafter.watch import NOBODY, Watch
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
        revision: id of its weights, if they are a revision's.
    """

    vocabulary: DraftVocabulary
    lane: ModelLane
    bridge: str
    store: BridgeStore | None = None
    needs: FeatureNeeds | None = None
    revision: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ways: dict[str, Way] = field(default_factory=dict)  # by the target's tokenizer; never changed, but replaced

    @property
    def has_tokenizer(self) -> bool:
        """Its own, which is to be compared with the target's."""
        return not isinstance(self.vocabulary, CutVocabulary)

    def kind(self, terms: Terms, target: Vocabulary | None) -> BridgeKind:
        """The way to that target's vocabulary, shared by all streams to it.

        It stays the same when another model takes over (`swap`), even one with another vocabulary.

        Raises:
            PacelineError: VOCABULARY_MISMATCH, or UNUSABLE_REVISION if the verifier won't tell what a head needs.
        """
        if self.needs is not None:
            self.needs.check(terms.feature_layers, terms.hidden_size)

        def make(vocabulary: DraftVocabulary) -> BridgeKind:
            if isinstance(vocabulary, CutVocabulary):
                return Cut(vocabulary, terms.tokenizer_hash, terms.vocab_size)
            assert target is not None, "fetched for models with tokenizers"
            kind = choose(target, vocabulary, self.bridge)
            if self.store is not None:
                self.store.restore(kind)
            return kind

        while terms.tokenizer_hash not in self._ways:
            vocabulary = self.vocabulary
            way = Way(make, vocabulary)
            with self._lock:
                if vocabulary is self.vocabulary:  # else another model took over meanwhile
                    self._ways = {terms.tokenizer_hash: way, **self._ways}
        return self._ways[terms.tokenizer_hash]

    async def swap(self, work: ModelAtWork) -> None:
        """Another model takes over; returns when it has. Raises VOCABULARY_MISMATCH if it can't draft for a target that
        there is a stream to; then the model before stays."""
        swapped = False
        while not swapped:  # again if another target came meanwhile
            ways = self._ways
            anew: dict[str, BridgeKind] = {}
            if work.vocabulary.content_hash != self.vocabulary.content_hash:
                for name, way in ways.items():
                    anew[name] = await asyncio.to_thread(way.make, work.vocabulary)
            exchange = partial(self._exchange, work, ways, anew)
            swapped = await asyncio.wrap_future(self.lane.swap(work.worker, work.new_session, exchange))

    def _exchange(self, work: ModelAtWork, ways: Mapping[str, Way], anew: Mapping[str, BridgeKind]) -> bool:
        """On the lane's thread. Where the vocabulary stays, bridges do, with what they have learned."""
        with self._lock:
            if self._ways is not ways:
                return False
            if anew:
                self.save()
            for name, kind in anew.items():
                ways[name].kind = kind
            self.vocabulary, self.needs, self.revision = work.vocabulary, work.needs, work.revision
        return True

    def save(self) -> None:
        """What bridges have learned; on the lane's thread, or when that has ended."""
        if self.store is not None:
            for way in self._ways.values():
                self.store.save(way.kind)


@dataclass(frozen=True, slots=True)
class Workload:
    """How a model works; see `DrafterSettings`."""

    width: int
    bridge: str
    max_rows: int
    draft_ahead: bool
    guesses: bool = False
    store: BridgeStore | None = None


@dataclass(frozen=True, slots=True)
class ModelAtWork:
    """A model and how it works, for a lane that it takes over or that begins with it."""

    vocabulary: DraftVocabulary
    worker: ModelWorker
    new_session: NewSession
    revision: str = ""
    needs: FeatureNeeds | None = None


def draft_model(strategy: str, loaded: LoadedModel, growth: Growth, workload: Workload) -> DraftModel:
    """Puts a loaded model to work; `lane.start()` is the caller's."""
    return in_lane(strategy, model_at_work(loaded, growth, workload), workload)


def in_lane(strategy: str, work: ModelAtWork, workload: Workload) -> DraftModel:
    """A lane of its own for a model."""
    lane = ModelLane(strategy, work.worker, work.new_session)
    return DraftModel(work.vocabulary, lane, workload.bridge, workload.store, work.needs, work.revision)


def model_at_work(loaded: LoadedModel, growth: Growth, workload: Workload, revision: str = "") -> ModelAtWork:
    """How a loaded model works; `growth` must be nobody else's."""
    vocabulary = loaded.cut or read_vocabulary(loaded.tokenizer_json)
    model, needs = loaded.model, loaded.needs
    worker = ModelWorker(model, growth, Calibration(), workload.max_rows, workload.draft_ahead, time.perf_counter)
    max_length = min(model.max_length, workload.max_rows)

    def new_guesser(context: list[int]) -> Proposer:
        bounds = ScopeBounds(vocabulary.size + 1, max_tokens=0)  # a cut vocabulary has one id more for what was cut
        return Suffix(bounds).begin(Context(context, 0, Sampling()))

    def new_session(kind: BridgeKind, opening: Opening) -> Session:
        bridge, length = kind.begin(opening.tokens), len(opening.tokens)
        size = min(vocabulary.size, model.vocab_size)
        if needs is not None and needs.borrows and isinstance(bridge, CutBridge):
            bridge, size = BorrowingBridge(bridge.kind, opening.tokens, needs.hidden_size), size + 1 + MAX_BORROWED
        reader = Reader(
            sampling=opening.sampling,
            size=size,
            width=workload.width,
            draws=growth.policy.draws,
            allowed=bridge.allowed,
            noise_ids=bridge.noise_ids,
        )
        if needs is not None:
            session = FeatureSession(bridge, reader, model.new_cache(), growth, length, max_length, needs)
            session.tell(opening.features)
            return session
        guesser = new_guesser if workload.guesses else None
        return ModelSession(bridge, reader, model.new_cache(), growth, length, max_length, guesser)

    return ModelAtWork(vocabulary, worker, new_session, revision, needs)


class Drafting:
    """Makes the state of each stream.

    Args:
        memory: of the strategies that need no model.
        models: in the order of their strategies.
        max_nodes: bound on a tree.
        ahead: reach further for verifiers that are far away.
        watch: is told of all that happens.
    """

    def __init__(
        self,
        memory: Memory,
        models: Sequence[DraftModel],
        max_nodes: int,
        ahead: bool,
        watch: Watch = NOBODY,
    ) -> None:
        self._watch = watch
        self._memory = memory
        self._models = tuple(models)
        self._calibrations = [Calibration() for _ in range(memory.num_strategies)]
        self._max_nodes = max_nodes
        self._ahead = ahead
        self._targets: dict[str, Vocabulary | None] = {}  # None: no model here needs to know its tokenizer

    @property
    def targets(self) -> frozenset[str]:
        """Tokenizer hashes of the targets that were drafted for."""
        return frozenset(self._targets)

    def with_models(self, models: Sequence[DraftModel]) -> Drafting:
        """The same memory and targets with other models, for a stream beside those of this."""
        other = copy.copy(self)
        other._models = tuple(models)
        return other

    async def sessions(self, terms: Terms, fetch_tokenizer: FetchTokenizer) -> Sessions:
        """For a stream that was welcomed. Raises VOCABULARY_MISMATCH or UNUSABLE_REVISION if nothing here can draft for
        its target."""
        pace = Pace(self._ahead)
        sessions = Sessions(
            terms, self._memory, self._calibrations, self._max_nodes, time.perf_counter, pace, self._watch
        )
        if not self._models:
            return sessions
        compares = any(model.has_tokenizer for model in self._models)
        target = await self._target(terms, fetch_tokenizer) if compares else None
        self._targets.setdefault(terms.tokenizer_hash, target)
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
        target = self._targets.get(terms.tokenizer_hash)
        if target is None:
            tokenizer = await fetch_tokenizer()
            # Parsing takes a while, and other streams go on.
            target = await asyncio.to_thread(read_vocabulary, tokenizer)
            self._targets[terms.tokenizer_hash] = target
        return target


def read_vocabulary(tokenizer_json: str) -> Vocabulary:
    """Needs the package tokenizers, which a drafter without models doesn't have."""
    from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

    return TokenizerVocabulary(tokenizer_json)
