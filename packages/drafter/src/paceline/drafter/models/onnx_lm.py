"""A language model that `export` or a trainer wrote, run by ONNX Runtime alone: no torch, no transformers, ready in a
moment.

Use it on edge devices, and wherever memory or the time until ready matter.

What the graph takes and gives is told in `paceline.wire.model_card`. Positions come before heads, so a session's past
is one stretch of memory, and a lone session's goes in as it lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from paceline.drafter.models.base import LoadedModel, Logits, Rows
from paceline.drafter.models.checks import check_batch
from paceline.drafter.models.onnx_cache import Feed, OnnxCache, apart, cache_names, feed_of
from paceline.drafter.models.onnx_session import first_line, give_memory_back, open_session, unusable
from paceline.drafter.models.pieces import score_in_pieces
from paceline.drafter.vocabulary.cut import CutVocabulary, parse_cut
from paceline.wire.model_card import LanguageModelCard
from paceline.wire.revision_folder import GRAPH, TOKENIZER, VOCABULARY, Revision, open_revision

MAX_ROWS = 128  # of a session in one forward pass

Arrays = list[npt.NDArray[np.float32]]
Shape = tuple[int, ...]


class OnnxLM:
    """See `base.LanguageModel`.

    Args:
        session: of a graph as its card says.
        card: what is to know of it.
    """

    def __init__(self, session: onnxruntime.InferenceSession, card: LanguageModelCard) -> None:
        self.vocab_size = card.vocab_size
        self.max_length = card.max_length
        self._session = session
        self._card = card
        self._takes = graph_inputs(card)
        self._gives = output_names(card.num_layers)
        self._num_new = len(self._gives) - 1  # outputs that the cache takes, in front of others

    def new_cache(self) -> OnnxCache:
        return OnnxCache(self._card)

    def score(self, batch: Sequence[Rows]) -> list[Logits]:
        """See `base.LanguageModel`. Raises PacelineError: OUT_OF_RANGE or MALFORMED for rows that don't suit,
        UNUSABLE_REVISION if the graph fails; caches are then as before."""
        if not batch:
            return []
        self._check(batch)
        return score_in_pieces(self._score, batch, MAX_ROWS)

    def check_graph(self) -> None:
        """That the graph takes and gives what its card says; runs it on two rows, which also lays out its weights.
        Raises UNUSABLE_REVISION."""
        check_ends(self._session, self._takes, self._gives)
        cache = self.new_cache()
        for position in range(min(2, self.max_length)):
            logits = self.score([self._trial(cache, position)])[0]
            if not np.isfinite(logits).all():
                raise unusable("its logits are not finite; export the model again")

    def _trial(self, cache: OnnxCache, position: int) -> Rows:
        return Rows(cache, np.zeros(1, np.int64), np.array([position]), np.ones((1, position + 1), bool), (0,))

    def _check(self, batch: Sequence[Rows]) -> None:
        check_batch(batch, self.vocab_size + self._card.cut_vocabulary, self.max_length)

    def _score(self, batch: Sequence[Rows]) -> list[Logits]:
        own = [rows.cache for rows in batch if isinstance(rows.cache, OnnxCache)]
        assert len(own) == len(batch), "caches come from new_cache"
        feed = self._feed(batch, own)
        logits, *new = run_graph(self._session, self._gives, feed, self._shapes(feed))
        further, new = new[self._num_new :], new[: self._num_new]
        for index, (rows, cache) in enumerate(zip(batch, own, strict=True)):
            cache.extend([part[index, : len(rows.tokens)] for part in new])
        return self._with_further(batch, apart(logits, [len(rows.wanted) for rows in batch]), further)

    def _with_further(self, batch: Sequence[Rows], logits: list[Logits], further: Arrays) -> list[Logits]:
        """Logits with what follows from outputs behind those that the cache takes."""
        return logits

    def _feed(self, batch: Sequence[Rows], caches: Sequence[OnnxCache]) -> Feed:
        return feed_of(batch, caches, self._card.num_layers)

    def _shapes(self, feed: Feed) -> list[Shape]:
        """What the outputs must be."""
        heads, dims = self._card.num_kv_heads, (self._card.key_dim, self._card.value_dim)
        new = [(*feed["input_ids"].shape, heads, dim) for _ in range(self._card.num_layers) for dim in dims]
        return [(len(feed["wanted"]), self.vocab_size), *new]


def input_names(num_layers: int) -> list[str]:
    return ["input_ids", "position_ids", "visible", "wanted", *cache_names("past", num_layers)]


def output_names(num_layers: int) -> list[str]:
    return ["logits", *cache_names("new", num_layers)]


def graph_inputs(card: LanguageModelCard) -> dict[str, tuple[str, int]]:
    """Type and number of dimensions of each."""
    ids = dict.fromkeys(("input_ids", "position_ids"), ("tensor(int64)", 2))
    floats = dict.fromkeys(cache_names("past", card.num_layers), ("tensor(float)", 4))
    return {**ids, "visible": ("tensor(bool)", 3), "wanted": ("tensor(int64)", 1), **floats}


def check_ends(
    session: onnxruntime.InferenceSession, inputs: dict[str, tuple[str, int]], outputs: Sequence[str]
) -> None:
    """That a graph has these. Raises UNUSABLE_REVISION."""
    try:
        takes = {item.name: (item.type, len(item.shape)) for item in session.get_inputs()}
        gives = [item.name for item in session.get_outputs()]
    except UnicodeDecodeError as error:
        raise unusable("its graph has names that are not UTF-8; export the model again") from error
    if takes != inputs or gives != list(outputs):
        raise unusable("its graph has other inputs or outputs than its card says; export the model again")


def run_graph(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], feed: Feed, shapes: Sequence[Shape]
) -> Arrays:
    """The outputs, which must be of these shapes. Raises UNUSABLE_REVISION."""
    try:
        found: Arrays = session.run(outputs, feed)
    except Exception as error:  # ONNX Runtime's exceptions have no common type
        raise unusable(f"its graph fails: {first_line(error)}; export the model again") from error
    if [array.shape for array in found] != list(shapes):
        raise unusable("its graph gives other shapes than it says; export the model again")
    return found


def load_onnx(folder: Path, *, threads: int = 1, provider: str = "auto") -> LoadedModel:
    """A model that is ready to draft.

    Args:
        folder: that `export` wrote or a trainer handed out; what is read of it is checked against its manifest first.
        threads: of the CPU.
        provider: "auto" (a GPU if ONNX Runtime can use one), "cpu" or "cuda"; if there is no GPU it is the CPU, and the
            log says so.

    Raises:
        PacelineError: HASH_MISMATCH for a damaged file, UNUSABLE_REVISION for anything else that is wrong with it,
            OUT_OF_RANGE for an argument.
    """
    revision = open_revision(folder)
    if type(revision.card) is not LanguageModelCard:
        raise unusable(f"it is a {revision.card.KIND}; draft with it by the strategy of that name")
    cut = read_cut(revision) if revision.card.cut_vocabulary else None
    tokenizer_json = "" if cut else _text(revision.read(TOKENIZER))
    model = OnnxLM(open_session(revision.read(GRAPH), threads, provider), revision.card)
    model.check_graph()
    give_memory_back()
    return LoadedModel(revision.manifest.drafter, model, tokenizer_json, cut)


def read_cut(revision: Revision) -> CutVocabulary:
    """Raises UNUSABLE_REVISION or HASH_MISMATCH."""
    manifest = revision.manifest
    if not manifest.tokenizer_hash:
        raise unusable("its manifest doesn't say which tokenizer its vocabulary is cut from; train it again")
    return parse_cut(revision.read(VOCABULARY), revision.card.vocab_size, manifest.tokenizer_hash)


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise unusable(f"its {TOKENIZER} is not UTF-8; export the model again") from error
