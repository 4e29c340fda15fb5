"""A head on the target's hidden states, run by ONNX Runtime: a layer or two that know what the target thought.

Use it beside a target that it was trained for. A row is told the target's state at the position before it, fused from
several layers, and where the target hasn't been yet its own state there (EAGLE-3, Li et al. 2025). The caches keep that
state of each row besides keys and values. What the two graphs take and give is told in `paceline.wire.model_card`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from paceline.drafter.features import FeatureNeeds, Floats
from paceline.drafter.models.base import LoadedModel, Logits, Rows
from paceline.drafter.models.checks import check_told
from paceline.drafter.models.onnx_cache import Feed, OnnxCache, Past, apart
from paceline.drafter.models.onnx_lm import Arrays, OnnxLM, Shape, check_ends, graph_inputs, read_cut, run_graph
from paceline.drafter.models.onnx_session import PROVIDERS, give_memory_back, open_session, unusable
from paceline.wire.model_card import FeatureHeadCard
from paceline.wire.revision_folder import FUSE, GRAPH, open_revision


class FeatureCache(OnnxCache):
    """Keys, values and own state of one session's rows."""

    def __init__(self, card: FeatureHeadCard) -> None:
        super().__init__(card)
        self._parts.append(np.empty((1, 0, card.width), np.float32))

    def states(self, rows: npt.NDArray[np.int64]) -> Floats:
        """Of these rows [n, width]."""
        found: Floats = self._parts[-1][0, rows]
        return found

    def extend(self, new: Sequence[Past]) -> None:
        """Adds rows: their states [n, width], then keys and values."""
        state, *others = new
        start = len(self)
        super().extend(others)
        self._parts[-1][0, start : len(self)] = state


class FeatureHead(OnnxLM):
    """See `base.LanguageModel`; all of a session's rows in a pass come with features, or all with rows above them.

    Args:
        session: of the head's graph.
        fuse: of the graph that makes hidden states of features.
        card: what is to know of both.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, fuse: onnxruntime.InferenceSession, card: FeatureHeadCard
    ) -> None:
        super().__init__(session, card)
        layers = (0, *card.feature_layers) if card.borrows else card.feature_layers
        self.needs = FeatureNeeds(layers, card.target_hidden_size, card.window, card.borrows)
        self._fuse = fuse
        self._width = card.width
        self._head_card = card
        self._takes = {**graph_inputs(card), "hidden": ("tensor(float)", 3)}
        self._gives.insert(1, "new_hidden")
        self._num_new += 1
        self._num_features = len(card.feature_layers) * card.target_hidden_size
        if card.borrows:
            self._takes["others"] = ("tensor(float)", 3)
            self._gives.append("normed")

    @property
    def on_gpu(self) -> bool:
        return bool(self._session.get_providers()[0] == PROVIDERS["cuda"])

    def new_cache(self) -> FeatureCache:
        return FeatureCache(self._head_card)

    def check_graph(self) -> None:
        check_ends(self._fuse, {"features": ("tensor(float)", 2)}, ["hidden"])
        super().check_graph()

    def _trial(self, cache: OnnxCache, position: int) -> Rows:
        """The first row is told by the target, the second by the first."""
        rows = super()._trial(cache, position)
        told = np.zeros((1, self._num_features), np.float32)
        features, above = (None, np.array([0])) if position else (told, None)
        return Rows(rows.cache, rows.tokens, rows.positions, rows.visible, rows.wanted, features, above)

    def _check(self, batch: Sequence[Rows]) -> None:
        super()._check(batch)
        check_told(batch, self._num_features)

    def _feed(self, batch: Sequence[Rows], caches: Sequence[OnnxCache]) -> Feed:
        feed = super()._feed(batch, caches)
        hidden = np.zeros((*feed["input_ids"].shape, self._width), np.float32)
        fused = iter(self._fused([rows.features for rows in batch if rows.features is not None]))
        for index, (rows, cache) in enumerate(zip(batch, caches, strict=True)):
            assert isinstance(cache, FeatureCache), "caches come from new_cache"
            told = next(fused) if rows.above is None else cache.states(rows.above)
            hidden[index, : len(told)] = told
        feed = {**feed, "hidden": hidden}
        return {**feed, "others": self._others(batch, hidden.shape)} if self.needs.borrows else feed

    def _others(self, batch: Sequence[Rows], shape: Shape) -> Floats:
        """Embeddings of borrowed tokens, where they are."""
        others = np.zeros(shape, np.float32)
        for index, rows in enumerate(batch):
            places = np.flatnonzero(rows.tokens > self.vocab_size)
            if len(places) and rows.borrowed is not None:
                others[index, places] = rows.borrowed[rows.tokens[places] - self.vocab_size - 1]
        return others

    def _with_further(self, batch: Sequence[Rows], logits: list[Logits], further: Arrays) -> list[Logits]:
        if not self.needs.borrows or not any(rows.num_borrowed for rows in batch):
            return logits
        normed = apart(further[0], [len(rows.wanted) for rows in batch])
        return [
            _beside(own, states, rows.borrowed) if rows.borrowed is not None and len(rows.borrowed) else own
            for own, states, rows in zip(logits, normed, batch, strict=True)
        ]

    def _fused(self, features: Sequence[Floats]) -> Sequence[Floats]:
        """[n, width of features] of several sessions -> [n, width]."""
        if not features:
            return ()
        together = np.concatenate(features)
        hidden = run_graph(self._fuse, ["hidden"], {"features": together}, [(len(together), self._width)])[0]
        return apart(hidden, [len(rows) for rows in features])

    def _shapes(self, feed: Feed) -> list[Shape]:
        logits, *new = super()._shapes(feed)
        normed = [(len(feed["wanted"]), self._width)] if self.needs.borrows else []
        return [logits, feed["hidden"].shape, *new, *normed]


def _beside(own: Logits, normed: Floats, borrowed: Floats) -> Logits:
    """Logits by id: of the vocabulary, of what can't be proposed, and of what is borrowed."""
    count, size = own.shape
    both = np.empty((count, size + 1 + len(borrowed)), np.float32)
    both[:, :size] = own
    both[:, size] = -np.inf
    np.matmul(normed, borrowed.T, out=both[:, size + 1 :])
    return both


def load_feature_head(folder: Path, *, threads: int = 1, provider: str = "auto") -> LoadedModel:
    """A head that is ready to draft; arguments and errors are those of `load_onnx`."""
    revision = open_revision(folder)
    card = revision.card
    if not isinstance(card, FeatureHeadCard):
        raise unusable(f"it is a {card.KIND}, not a feature_head; draft with it by onnx_lm")
    cut = read_cut(revision)
    session, fuse = (open_session(revision.read(name), threads, provider) for name in (GRAPH, FUSE))
    model = FeatureHead(session, fuse, card)
    model.check_graph()
    give_memory_back()
    return LoadedModel(revision.manifest.drafter, model, "", cut, model.needs)
