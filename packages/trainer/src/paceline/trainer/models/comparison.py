"""Whether a graph computes what its module does: looked at before anybody else can."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto
from torch import nn

from paceline.trainer.models.decoder import Decoder
from paceline.trainer.models.feature_head import FeatureHead
from paceline.trainer.models.graph_nodes import Array, Nodes
from paceline.trainer.models.graph_products import LEVELS
from paceline.wire.model_card import FeatureHeadCard, LanguageModelCard
from paceline.wire.revision import unusable
from paceline.wire.revision_folder import FUSE, GRAPH

NUM_TEXTS, TEXT_LENGTH = 2, 24


@dataclass(frozen=True, slots=True)
class Probe:
    """What both are run on.

    Attributes:
        input_ids: int64 [B, T].
        features: of a feature head, float32 [B, T, len(feature_layers) * target_hidden_size]; the target's state before
            each token.
        others: of one that borrows, embeddings of tokens above its vocabulary [B, T, width]; None: there are none.
    """

    input_ids: Array
    features: Array | None = None
    others: Array | None = None


@dataclass(frozen=True, slots=True)
class Compared:
    """A graph against its module.

    Attributes:
        top1_agreement: share of the probe's rows whose best token is the same.
        max_logit_difference: greatest there.
        logit_spread: standard deviation of the module's logits.
    """

    top1_agreement: float
    max_logit_difference: float
    logit_spread: float


def random_probe(card: LanguageModelCard, seed: int = 0) -> Probe:
    """Shows whether a float graph is right. How well one in int8 agrees shows only on real text."""
    random = np.random.default_rng(seed)
    shape = (NUM_TEXTS, min(TEXT_LENGTH, card.max_length))
    ids = random.integers(card.vocab_size, size=shape)
    if not isinstance(card, FeatureHeadCard):
        return Probe(ids)
    size = len(card.feature_layers) * card.target_hidden_size
    return Probe(ids, random.normal(size=(*shape, size)).astype(np.float32))


def compare(card: LanguageModelCard, module: nn.Module, graphs: Mapping[str, bytes], probe: Probe) -> Compared:
    """Runs both. Raises UNUSABLE_REVISION if the graph can't be run or gives what is not finite.

    Args:
        graphs: model.onnx and a feature head's fuse.onnx, by name.
    """
    sessions = {name: open_session(content) for name, content in graphs.items()}
    hidden = None
    if probe.features is not None:
        flat = probe.features.reshape(-1, probe.features.shape[-1])
        hidden = _run(sessions[FUSE], ["hidden"], {"features": flat})[0].reshape(*probe.input_ids.shape, -1)
    found = _graph_logits(card, sessions[GRAPH], probe, hidden)
    wanted = _module_logits(module, probe)
    return Compared(
        float((found.argmax(-1) == wanted.argmax(-1)).mean()),
        float(np.abs(found - wanted).max()),
        float(wanted.std()),
    )


def open_session(graph: bytes) -> onnxruntime.InferenceSession:
    """On one thread, as a drafter runs it. Raises UNUSABLE_REVISION."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what matters comes as an exception
    if _saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")  # exact, and up to twice as slow
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions have no common type
        raise unusable(GRAPH, "unloadable", "a graph that ONNX Runtime loads; make it again") from error


@cache
def _saturates() -> bool:
    """Whether this processor adds products of 8 bits up in 16, as those with AVX2 and without VNNI do: sums are then
    wrong unless ONNX Runtime is told to mind."""
    nodes = Nodes()
    nodes.input("rows", TensorProto.UINT8, (1, 64))
    ones = nodes.weight("weight", np.full((64, 32), LEVELS, np.int8))
    product = nodes.op("MatMulInteger", "rows", ones)
    nodes.output("sums", product, TensorProto.INT32, (1, 32))
    session = onnxruntime.InferenceSession(nodes.content({}), providers=["CPUExecutionProvider"])
    sums = session.run(None, {"rows": np.full((1, 64), 255, np.uint8)})[0]
    return not bool((sums == 64 * 255 * LEVELS).all())


def _graph_logits(card: LanguageModelCard, session: Any, probe: Probe, hidden: Array | None) -> Array:
    """Each text in two passes, the second on top of the first's keys and values."""
    ids = probe.input_ids
    batch, length = ids.shape
    others = probe.others
    if others is None and isinstance(card, FeatureHeadCard):
        others = np.zeros((batch, length, card.width), np.float32)
    names = [f"{part}_{layer}" for layer in range(card.num_layers) for part in ("key", "value")]
    dims = (card.key_dim, card.value_dim) * card.num_layers
    past = [np.zeros((batch, 0, card.num_kv_heads, dim), np.float32) for dim in dims]
    logits = []
    for begin, end in ((0, length // 2), (length // 2, length)):
        rows = end - begin
        if not rows:
            continue
        feed = {
            "input_ids": ids[:, begin:end],
            "position_ids": np.tile(np.arange(begin, end), (batch, 1)),
            "visible": np.tile(np.tri(rows, end, begin, dtype=bool), (batch, 1, 1)),
            "wanted": np.arange(batch * rows),
            **{f"past_{name}": part for name, part in zip(names, past, strict=True)},
        }
        if hidden is not None:
            feed["hidden"] = hidden[:, begin:end]
        if isinstance(card, FeatureHeadCard) and card.borrows and others is not None:
            feed["others"] = others[:, begin:end]
        found, *new = _run(session, ["logits", *(f"new_{name}" for name in names)], feed)
        past = [np.concatenate(both, axis=1) for both in zip(past, new, strict=True)]
        logits.append(found.reshape(batch, rows, -1))
    return np.concatenate(logits, axis=1)


@torch.no_grad()
def _module_logits(module: nn.Module, probe: Probe) -> Array:
    ids = torch.from_numpy(probe.input_ids)
    if isinstance(module, Decoder):
        logits: torch.Tensor = module(ids) @ module.head_weight.T
    else:
        assert isinstance(module, FeatureHead)
        assert probe.features is not None, "a feature head reads features"
        batch, length = ids.shape
        positions = torch.arange(length).expand(batch, -1)
        visible = torch.ones(length, length, dtype=torch.bool).tril().expand(batch, -1, -1)
        block = module.shape.block
        past = torch.zeros(batch, 0, block.num_kv_heads, block.head_dim)
        hidden = module.fuse(torch.from_numpy(probe.features))
        others = None if probe.others is None else torch.from_numpy(probe.others)
        logits = module(ids, positions, visible, hidden, past, past, others)[0]
    return logits.numpy()


def _run(session: Any, outputs: list[str], feed: dict[str, Array]) -> list[Array]:
    try:
        found: list[Array] = session.run(outputs, feed)
    except Exception as error:  # as above
        raise unusable(GRAPH, "failing", "a graph that runs; make it again") from error
    if not all(np.isfinite(array).all() for array in found):
        raise unusable(GRAPH, "giving numbers that are not finite", "of finite ones; go back to older weights")
    return found
