"""A tiny feature head as a revision's folder, and the same function in numpy.

One layer of attention over x = embedding + hidden + position / 8, so that every input counts:

    new_hidden = tanh(x + attention(x W_k, x W_v, queries x))      logits = new_hidden W_head
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper, numpy_helper

from paceline.v1 import trainer_pb2
from paceline.wire.model_card import FeatureHeadCard, LanguageModelCard, card_json
from paceline.wire.revision_folder import CARD, FUSE, GRAPH, VOCABULARY, seal

WIDTH, VOCAB, TARGET_VOCAB, LENGTH = 8, 30, 100, 96
LAYERS, TARGET_HIDDEN = (2, 5), 3
FEATURES = len(LAYERS) * TARGET_HIDDEN
TOKENIZER_HASH = "the target's tokenizer"
IDS = np.arange(5, 5 + 3 * VOCAB, 3)

CARD_OF_HEAD = FeatureHeadCard(
    architecture="tiny",
    vocab_size=VOCAB,
    max_length=LENGTH,
    num_layers=1,
    num_kv_heads=1,
    key_dim=WIDTH,
    value_dim=WIDTH,
    quantization="none",
    width=WIDTH,
    target_hidden_size=TARGET_HIDDEN,
    feature_layers=LAYERS,
)
# As wide as its target, whose embeddings it is told. Its layers' states are as many numbers as before.
CARD_THAT_BORROWS = replace(CARD_OF_HEAD, target_hidden_size=WIDTH, feature_layers=(5,), borrows=True)
CARD_OF_LM = LanguageModelCard(
    architecture="tiny",
    vocab_size=VOCAB,
    max_length=LENGTH,
    num_layers=1,
    num_kv_heads=1,
    key_dim=WIDTH,
    value_dim=WIDTH,
    quantization="none",
    cut_vocabulary=True,
)

Array = npt.NDArray[np.float32]
_CHANCE = np.random.default_rng(3)
WEIGHTS: dict[str, Array] = {
    "embedding": _CHANCE.standard_normal((VOCAB + 1, WIDTH)).astype(np.float32),
    "to_key": _CHANCE.standard_normal((WIDTH, WIDTH)).astype(np.float32),
    "to_value": _CHANCE.standard_normal((WIDTH, WIDTH)).astype(np.float32),
    "head": _CHANCE.standard_normal((WIDTH, VOCAB)).astype(np.float32),
    "fuse": _CHANCE.standard_normal((FEATURES, WIDTH)).astype(np.float32),
    "fuse_one": _CHANCE.standard_normal((WIDTH, WIDTH)).astype(np.float32),
}


def head_alone(tokens: Sequence[int], features: Array, num_drafted: int = 0, borrowed: Array | None = None) -> Array:
    """Logits of each row of one path [n, VOCAB]; the last `num_drafted` rows are told the own state of the one before.

    features: before each of the other rows. borrowed: embeddings of tokens above VOCAB, which have logits, too, then.
    """
    fuse = WEIGHTS["fuse" if borrowed is None else "fuse_one"]
    table = WEIGHTS["embedding"] if borrowed is None else np.concatenate((WEIGHTS["embedding"], borrowed))
    rows: list[Array] = []
    states: list[Array] = []
    for index, token in enumerate(tokens):
        drafted = index >= len(tokens) - num_drafted
        hidden = states[-1] if drafted else features[index] @ fuse
        rows.append(table[token] + hidden + np.float32(index / 8))
        seen = np.array(rows)
        scores = seen @ WEIGHTS["to_key"] @ rows[-1]
        weights = np.exp(scores - scores.max())
        states.append(np.tanh(rows[-1] + weights / weights.sum() @ seen @ WEIGHTS["to_value"]))
    logits = np.array(states) @ WEIGHTS["head"]
    if borrowed is None:
        return logits
    other = np.full((len(logits), 1), -np.inf, np.float32)
    return np.concatenate((logits, other, np.array(states) @ borrowed.T), axis=1)


def save_head(folder: Path, card: LanguageModelCard = CARD_OF_HEAD, **manifest: str) -> Path:
    """A folder that `load_feature_head` loads, or `load_onnx` if the card is that of a language model."""
    folder.mkdir()
    is_head = isinstance(card, FeatureHeadCard)
    borrows = isinstance(card, FeatureHeadCard) and card.borrows
    (folder / GRAPH).write_bytes(_head_graph(is_head, borrows))
    if is_head:
        (folder / FUSE).write_bytes(_fuse_graph("fuse_one" if borrows else "fuse"))
    (folder / CARD).write_bytes(card_json(card))
    (folder / VOCABULARY).write_bytes(IDS.astype("<u4").tobytes())
    said = {"drafter": "tiny", "format": "onnx", "tokenizer_hash": TOKENIZER_HASH} | manifest
    seal(folder, trainer_pb2.RevisionManifest(**said))
    return folder


def _head_graph(is_head: bool, borrows: bool = False) -> bytes:
    number, whole = TensorProto.FLOAT, TensorProto.INT64
    inputs = {"input_ids": (whole, ["B", "Q"]), "position_ids": (whole, ["B", "Q"])}
    inputs |= {"visible": (TensorProto.BOOL, ["B", "Q", "K"]), "wanted": (whole, ["W"])}
    inputs |= {"hidden": (number, ["B", "Q", WIDTH])} if is_head else {}
    inputs |= {f"past_{part}_0": (number, ["B", "P", 1, WIDTH]) for part in ("key", "value")}
    outputs = {"logits": (number, ["W", VOCAB])}
    outputs |= {"new_hidden": (number, ["B", "Q", WIDTH])} if is_head else {}
    outputs |= {f"new_{part}_0": (number, ["B", "Q", 1, WIDTH]) for part in ("key", "value")}
    if borrows:
        inputs |= {"others": (number, ["B", "Q", WIDTH])}
        outputs |= {"normed": (number, ["W", WIDTH])}
    looked_up = [
        ("Min", ["input_ids", "other_id"], "own_ids"),
        ("Gather", ["embedding", "own_ids"], "own"),
        ("Greater", ["input_ids", "other_id"], "above_own"),
        ("Unsqueeze", ["above_own", "last"], "is_borrowed"),
        ("Where", ["is_borrowed", "others", "own"], "embedded"),
    ]
    nodes = [
        *(looked_up if borrows else [("Gather", ["embedding", "input_ids"], "embedded")]),
        ("Cast", ["position_ids"], "places", {"to": number}),
        ("Div", ["places", "eight"], "shifts"),
        ("Unsqueeze", ["shifts", "last"], "shift"),
        ("Add", ["embedded", "hidden"], "told") if is_head else ("Identity", ["embedded"], "told"),
        ("Add", ["told", "shift"], "x"),
        ("MatMul", ["x", "to_key"], "own_keys"),
        ("MatMul", ["x", "to_value"], "own_values"),
        ("Unsqueeze", ["own_keys", "second_last"], "new_key_0"),
        ("Unsqueeze", ["own_values", "second_last"], "new_value_0"),
        ("Squeeze", ["past_key_0", "second_last"], "old_keys"),
        ("Squeeze", ["past_value_0", "second_last"], "old_values"),
        ("Concat", ["old_keys", "own_keys"], "keys", {"axis": 1}),
        ("Concat", ["old_values", "own_values"], "values", {"axis": 1}),
        ("Transpose", ["keys"], "turned", {"perm": [0, 2, 1]}),
        ("MatMul", ["x", "turned"], "scores"),
        ("Where", ["visible", "scores", "never"], "masked"),
        ("Softmax", ["masked"], "weights", {"axis": -1}),
        ("MatMul", ["weights", "values"], "attended"),
        ("Add", ["x", "attended"], "sum"),
        ("Tanh", ["sum"], "new_hidden"),
        ("Reshape", ["new_hidden", "flat"], "rows"),
        ("Gather", ["rows", "wanted"], "of_wanted"),
        ("MatMul", ["of_wanted", "head"], "logits"),
        *([("Identity", ["of_wanted"], "normed")] if borrows else []),
    ]
    constants = {
        "eight": np.array(8.0, np.float32),
        "never": np.array(-3e38, np.float32),
        "last": np.array([2]),
        "second_last": np.array([2]),
        "flat": np.array([-1, WIDTH]),
        "other_id": np.array(VOCAB),
    }
    return _graph(nodes, inputs, outputs, {name: WEIGHTS[name] for name in list(WEIGHTS)[:4]} | constants)


def _fuse_graph(weight: str) -> bytes:
    width = len(WEIGHTS[weight])
    ends = {"features": (TensorProto.FLOAT, ["N", width])}, {"hidden": (TensorProto.FLOAT, ["N", WIDTH])}
    return _graph([("MatMul", ["features", "fuse"], "hidden")], *ends, {"fuse": WEIGHTS[weight]})


def _graph(nodes: list, inputs: dict, outputs: dict, constants: dict[str, npt.NDArray]) -> bytes:
    made = [helper.make_node(kind, takes, [gives], **dict(*more)) for kind, takes, gives, *more in nodes]
    ends = [[helper.make_tensor_value_info(name, *kind) for name, kind in side.items()] for side in (inputs, outputs)]
    held = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(made, "tiny", *ends, held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model.SerializeToString()
