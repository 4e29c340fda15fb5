"""What `export` does, step by step: load, trace, quantize, compare with torch, write. Imports torch and onnx."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from paceline.drafter.models.base import LanguageModel, Logits, Rows, logits_of
from paceline.drafter.models.export import ExportSettings, stage
from paceline.drafter.models.onnx_graph import quantize, write_graph
from paceline.drafter.models.onnx_lm import load_onnx
from paceline.drafter.models.torch_lm import TorchLM, make_lm
from paceline.drafter.models.torch_load import Loaded, load_causal_lm, rope_types, unusable
from paceline.v1 import trainer_pb2
from paceline.wire.errors import out_of_range
from paceline.wire.model_card import LanguageModelCard, card_json
from paceline.wire.revision import revision_id
from paceline.wire.revision_folder import CARD, FORMAT, GRAPH, LIMITS, TOKENIZER, new_folder, seal

ROPE_TYPES = {"default", "linear", "llama3", "yarn"}  # their frequencies don't depend on the text's length
NUM_TEXTS = 4
TEXT_LENGTH = 64
MAX_FLOAT_DIFFERENCE = 1e-3  # of the logits' spread, without quantization


@dataclass(frozen=True, slots=True)
class Exported:
    """What was made.

    Attributes:
        num_bytes: of the graph.
        top1_agreement: share of `num_positions` at which the graph's best token is torch's.
        max_logit_difference: greatest there.
    """

    card: LanguageModelCard
    revision_id: str
    num_bytes: int
    top1_agreement: float
    max_logit_difference: float
    num_positions: int


@dataclass(frozen=True, slots=True)
class _Texts:
    """What a model wrote, tokens [n, length], and its logits there [n * length, vocab_size]."""

    tokens: np.ndarray
    logits: Logits


def run(settings: ExportSettings, command: str) -> Exported:
    """Raises PacelineError, mostly UNUSABLE_REVISION: the model can't be exported, and why; and OSError."""
    with stage(f"loading {settings.model}"):
        loaded = load_causal_lm(settings.model, torch.device("cpu"), torch.float32)
        model = make_lm(settings.model, loaded)
        card = replace(make_card(settings.model, loaded, model, settings.max_length), quantization=settings.quantize)
    with stage("writing with it, to compare with"):
        texts = write_texts(model, min(TEXT_LENGTH, card.max_length))
    manifest = trainer_pb2.RevisionManifest(
        drafter=settings.name or short_name(settings.model), format=FORMAT, command=command
    )
    with new_folder(settings.out) as folder:
        (folder / CARD).write_bytes(card_json(card))
        (folder / TOKENIZER).write_bytes(loaded.tokenizer_json.encode())
        with stage("tracing it into a graph, which takes a while"):
            write_graph(loaded.model, card, folder / GRAPH)
        if card.quantization == "int8":
            with stage("quantizing weights"):
                quantize(folder / GRAPH)
        seal(folder, manifest)
        with stage("comparing the graph with torch"):
            agreement, difference = compare(
                load_onnx(folder, threads=torch.get_num_threads(), provider="cpu").model, texts
            )
        if card.quantization == "none" and not difference <= MAX_FLOAT_DIFFERENCE * float(texts.logits.std()):
            raise unusable(
                settings.model, f"the graph's logits differ from torch's by {difference:.2g}; can't export it"
            )
        manifest.metrics["top1_agreement"] = agreement
        manifest.metrics["max_logit_difference"] = difference
        sealed = seal(folder, manifest)
    num_bytes = next(file.size for file in sealed.files if file.path == GRAPH)
    return Exported(card, revision_id(sealed), num_bytes, agreement, difference, texts.tokens.size)


def make_card(name: str, loaded: Loaded, model: TorchLM, max_length: int) -> LanguageModelCard:
    """What the graph will take and give. Raises UNUSABLE_REVISION for a model that a graph can't be made of, and
    OUT_OF_RANGE for a max_length that it can't have (0: the greatest)."""
    strange = rope_types(loaded.model.config) - ROPE_TYPES
    if strange:
        raise unusable(name, f"its rotary embedding is of type {', '.join(sorted(strange))}; a graph can't follow that")
    cache = model.new_cache()
    model.score([Rows(cache, np.zeros(1, np.int64), np.zeros(1, np.int64), np.ones((1, 1), bool), ())])
    shapes = cache.shapes
    if set(shapes) != set(range(len(shapes))) or len(set(shapes.values())) != 1:
        raise unusable(name, "its layers have keys and values of several shapes; a graph has one; choose another model")
    if 4 * loaded.model.num_parameters() > LIMITS[GRAPH]:
        raise unusable(name, f"its weights take more than {LIMITS[GRAPH]} bytes in float32; choose a smaller model")
    # Up to its window, a layer that sees only a window sees everything.
    limit = min(loaded.max_length, loaded.window or loaded.max_length)
    if max_length > limit:
        raise out_of_range("max_length", max_length, f"at most {limit} for this model")
    num_kv_heads, key_dim, value_dim = shapes[0]
    return LanguageModelCard(
        architecture=type(loaded.model).__name__,
        vocab_size=model.vocab_size,
        max_length=max_length or limit,
        num_layers=len(shapes),
        num_kv_heads=num_kv_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        quantization="none",
    )


def write_texts(model: LanguageModel, length: int) -> _Texts:
    """Samples some texts: on what it writes itself a model is as sure as it is in use, on random tokens it is not."""
    random = np.random.default_rng(0)
    caches = [model.new_cache() for _ in range(NUM_TEXTS)]
    tokens = random.integers(model.vocab_size, size=(NUM_TEXTS, 1))
    logits: list[Logits] = []
    for position in range(length):
        seen = np.ones((1, position + 1), bool)
        at = np.array([position])
        step = logits_of(model, [Rows(cache, tokens[row, -1:], at, seen, (0,)) for row, cache in enumerate(caches)])
        logits.append(np.concatenate(step))
        drawn = np.argmax(logits[-1] + random.gumbel(size=logits[-1].shape), axis=1)
        tokens = np.concatenate((tokens, drawn[:, None]), axis=1)
    return _Texts(tokens[:, :-1], np.stack(logits, axis=1).reshape(NUM_TEXTS * length, -1))


def compare(model: LanguageModel, texts: _Texts) -> tuple[float, float]:
    """Share of positions with the same best token, and the greatest difference of a logit."""
    length = texts.tokens.shape[1]
    places, seen = np.arange(length), np.tri(length, dtype=bool)
    found = [logits_of(model, [Rows(model.new_cache(), text, places, seen, tuple(places))])[0] for text in texts.tokens]
    logits = np.concatenate(found)
    same = logits.argmax(axis=1) == texts.logits.argmax(axis=1)
    return float(same.mean()), float(np.abs(logits - texts.logits).max())


def short_name(model: str) -> str:
    """The end of a model's name: "org/tiny-lm", "folder/tiny-lm", "tiny-lm.gguf" and "package:tiny-lm" are tiny-lm."""
    return Path(model.rpartition(":")[2]).name.removesuffix(".gguf")[:200] or "causal_lm"
