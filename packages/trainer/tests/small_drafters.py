"""Small drafters with random weights, and their graphs run as a drafter runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from paceline.trainer.models.block import BlockShape
from paceline.trainer.models.comparison import open_session
from paceline.trainer.models.decoder import Decoder, DecoderShape
from paceline.trainer.models.feature_head import FeatureHead, FeatureHeadShape
from paceline.trainer.models.graph import decoder_card, feature_head_card
from paceline.trainer.models.graph_nodes import Array
from paceline.trainer.models.revision import make_graphs
from paceline.trainer.models.weights import weights_of
from paceline.wire.model_card import FeatureHeadCard, LanguageModelCard
from paceline.wire.revision_folder import FUSE, GRAPH

DECODER = DecoderShape(
    vocab_size=90, width=64, num_layers=2, num_heads=6, num_kv_heads=2, head_dim=16, intermediate=96, max_length=128
)
BLOCK = BlockShape(width=64, num_heads=6, num_kv_heads=2, head_dim=16, intermediate=96)
HEAD = FeatureHeadShape(vocab_size=90, target_hidden_size=48, num_features=3, block=BLOCK)
LAYERS = (2, 5, 7)


@torch.no_grad()
def _lively(module: torch.nn.Module) -> torch.nn.Module:
    """Weights as large as trained ones, so that attention and best tokens are decided; norms that aren't all 1."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))
        else:
            spread = 1.0 if "embed" in name else 1.5 * parameter.shape[1] ** -0.5
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def decoder(*, tied: bool = True, unknown: bool = False) -> Decoder:
    made = _lively(Decoder(replace(DECODER, tied=tied, unknown=unknown)))
    assert isinstance(made, Decoder)
    return made


def feature_head() -> FeatureHead:
    made = _lively(FeatureHead(HEAD))
    assert isinstance(made, FeatureHead)
    return made


def card_of(module: torch.nn.Module, quantization: str) -> LanguageModelCard:
    if isinstance(module, Decoder):
        return decoder_card(module.shape, quantization=quantization)
    assert isinstance(module, FeatureHead)
    return feature_head_card(module.shape, feature_layers=LAYERS, max_length=128, window=0, quantization=quantization)


@dataclass(frozen=True)
class Session:
    """One session's new rows on top of its cache.

    Attributes:
        ids, positions: [Q].
        visible: bool [Q, P + Q].
        past: arrays [P, kv_heads, dim], keys and values of each layer.
        hidden: of a feature head, [Q, width].
    """

    ids: Array
    positions: Array
    visible: Array
    past: list[Array]
    hidden: Array | None = None


@dataclass(frozen=True)
class Given:
    """What comes out for one session, [Q, ...] each."""

    logits: Array
    new: list[Array]
    hidden: Array | None = None


class Runner:
    """A graph, run on sessions side by side with padding as the drafter does it."""

    def __init__(self, module: torch.nn.Module, quantization: str) -> None:
        self.card = card_of(module, quantization)
        self.graphs = make_graphs(module, self.card, weights_of(module))
        self._session = open_session(self.graphs[GRAPH])
        self._fuse = open_session(self.graphs[FUSE]) if FUSE in self.graphs else None
        names = [f"{part}_{layer}" for layer in range(self.card.num_layers) for part in ("key", "value")]
        self.is_head = isinstance(self.card, FeatureHeadCard)
        self.takes, self.gives = [f"past_{name}" for name in names], [f"new_{name}" for name in names]

    def empty(self) -> list[Array]:
        shape = (0, self.card.num_kv_heads, self.card.key_dim)
        return [np.zeros(shape, np.float32) for _ in self.takes]

    def fuse(self, features: Array) -> Array:
        assert self._fuse is not None
        found: Array = self._fuse.run(["hidden"], {"features": features})[0]
        return found

    def run(self, sessions: Sequence[Session], wanted: Sequence[int] | None = None) -> list[Given]:
        """Logits of all rows, or of some of a lone session."""
        rows, past = (
            max(len(of) for of in each) for each in ([s.ids for s in sessions], [s.past[0] for s in sessions])
        )
        batch = len(sessions)
        visible = np.zeros((batch, rows, past + rows), bool)
        visible[:, :, past:] = np.eye(rows, dtype=bool)
        for index, session in enumerate(sessions):
            count, own = len(session.ids), len(session.past[0])
            visible[index, :count, :own] = session.visible[:, :own]
            visible[index, :count, past : past + count] = session.visible[:, own:]
        feed = {
            "input_ids": _stacked([s.ids for s in sessions], rows),
            "position_ids": _stacked([s.positions for s in sessions], rows),
            "visible": visible,
            "wanted": np.arange(batch * rows) if wanted is None else np.array(wanted, np.int64),
            **{name: _stacked([s.past[index] for s in sessions], past) for index, name in enumerate(self.takes)},
        }
        if self.is_head:
            feed["hidden"] = _stacked([s.hidden for s in sessions if s.hidden is not None], rows)
        names = ["logits", *(["new_hidden"] if self.is_head else []), *self.gives]
        found = dict(zip(names, self._session.run(names, feed), strict=True))
        logits = found["logits"].reshape(batch, -1, self.card.vocab_size)
        return [
            Given(
                logits[index, : len(session.ids)],
                [found[name][index, : len(session.ids)] for name in self.gives],
                found["new_hidden"][index, : len(session.ids)] if self.is_head else None,
            )
            for index, session in enumerate(sessions)
        ]

    def after(self, length: int, seed: int) -> list[Array]:
        """A cache of that many rows of random text."""
        return self.run([text(self, length, seed)])[0].new if length else self.empty()


def text(runner: Runner, length: int, seed: int) -> Session:
    """A random text from its start."""
    random = np.random.default_rng(seed)
    ids = random.integers(runner.card.vocab_size, size=length)
    return Session(
        ids, np.arange(length), np.tri(length, dtype=bool), runner.empty(), hidden_rows(runner, length, seed)
    )


def tree(runner: Runner, past: list[Array], parents: Sequence[int], seed: int) -> Session:
    """A random tree on top of a cache: nodes see it, their ancestors and themselves. Parents are -1 or earlier."""
    random = np.random.default_rng(seed)
    count, own = len(parents), len(past[0])
    visible = np.zeros((count, own + count), bool)
    visible[:, :own] = True
    depths = np.zeros(count, np.int64)
    for node, parent in enumerate(parents):
        if parent >= 0:
            visible[node] = visible[parent]
            depths[node] = depths[parent] + 1
        visible[node, own + node] = True
    ids = random.integers(runner.card.vocab_size, size=count)
    return Session(ids, own + depths, visible, past, hidden_rows(runner, count, seed))


def path(session: Session, node: int) -> Session:
    """The node with its ancestors, alone."""
    own = len(session.past[0])
    nodes = np.flatnonzero(session.visible[node, own:])
    visible = np.concatenate((np.ones((len(nodes), own), bool), np.tri(len(nodes), dtype=bool)), axis=1)
    hidden = None if session.hidden is None else session.hidden[nodes]
    return Session(session.ids[nodes], session.positions[nodes], visible, session.past, hidden)


def hidden_rows(runner: Runner, count: int, seed: int) -> Array | None:
    if not isinstance(runner.card, FeatureHeadCard):
        return None
    rows: Array = np.random.default_rng(seed).normal(size=(count, runner.card.width)).astype(np.float32)
    return rows


def of_module(module: torch.nn.Module, session: Session) -> Given:
    """What the module says."""
    ids, positions, visible = (
        torch.from_numpy(part)[None] for part in (session.ids, session.positions, session.visible)
    )
    past = [torch.from_numpy(part)[None] for part in session.past]
    with torch.no_grad():
        if isinstance(module, Decoder):
            hidden, new = module.step(ids, positions, visible, list(zip(past[::2], past[1::2], strict=True)))
            logits = hidden @ module.head_weight.T
            return Given(logits[0].numpy(), [part[0].numpy() for both in new for part in both])
        assert session.hidden is not None
        logits, hidden, keys, values = module(ids, positions, visible, torch.from_numpy(session.hidden)[None], *past)
    return Given(logits[0].numpy(), [keys[0].numpy(), values[0].numpy()], hidden[0].numpy())


def _stacked(parts: Sequence[Array], length: int) -> Array:
    stacked = np.zeros((len(parts), length, *parts[0].shape[1:]), parts[0].dtype)
    for index, part in enumerate(parts):
        stacked[index, : len(part)] = part
    return stacked
