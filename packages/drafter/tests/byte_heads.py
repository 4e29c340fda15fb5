"""Feature heads in int8 with weights by chance: the graph that carries them, and the same function in numpy."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, numpy_helper

from paceline.drafter.models.base import KVCache, Rows
from paceline.drafter.models.native_head import NativeFeatureHead, native_head
from paceline.drafter.native.build import load_library
from paceline.wire.model_card import FeatureHeadCard

Array = npt.NDArray[np.float32]
EPSILON = 1e-5
LENGTH = 96


@dataclass(frozen=True)
class Sizes:
    """A head whose target is as wide as itself."""

    width: int
    heads: int
    key_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    layers: int


SMALL = Sizes(width=16, heads=2, key_heads=1, head_size=16, intermediate=48, vocabulary=50, layers=1)
FLAT = Sizes(width=96, heads=2, key_heads=1, head_size=16, intermediate=16, vocabulary=33, layers=2)
WIDE = Sizes(width=64, heads=6, key_heads=2, head_size=32, intermediate=192, vocabulary=101, layers=3)


class ByteHead:
    """Weights by chance, and what they compute."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        chance = np.random.default_rng(7)
        width, queries, keys = sizes.width, sizes.heads * sizes.head_size, sizes.key_heads * sizes.head_size
        shapes = {
            "embed_tokens": (sizes.vocabulary + 1, width),
            "fuse_proj": (width, sizes.layers * width),
            "mix_proj": (width, 2 * width),
            "block.self_attn.q_proj": (queries, width),
            "block.self_attn.k_proj": (keys, width),
            "block.self_attn.v_proj": (keys, width),
            "block.self_attn.o_proj": (width, queries),
            "block.mlp.gate_proj": (sizes.intermediate, width),
            "block.mlp.up_proj": (sizes.intermediate, width),
            "block.mlp.down_proj": (width, sizes.intermediate),
        }
        self.bytes = {name: chance.integers(-127, 128, shape).astype(np.int8) for name, shape in shapes.items()}
        self.scales = {
            name: (chance.uniform(0.5, 1.5, shape[0]) / 64 / np.sqrt(shape[1])).astype(np.float32)
            for name, shape in shapes.items()
        }
        norms = ("embedding_norm", "hidden_norm", "block.input_layernorm", "block.post_attention_layernorm", "norm")
        self.norms = {name: chance.uniform(0.5, 1.5, width).astype(np.float32) for name in norms}
        self.mean, self.scale = (chance.uniform(0.1, 1.0, sizes.layers * width).astype(np.float32) for _ in range(2))
        angles = np.arange(LENGTH)[:, None] * 0.5 ** np.arange(sizes.head_size // 2)
        self.cosines, self.sines = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    @property
    def card(self) -> FeatureHeadCard:
        sizes = self.sizes
        return FeatureHeadCard(
            architecture="paceline.FeatureHead",
            vocab_size=sizes.vocabulary,
            max_length=LENGTH,
            num_layers=1,
            num_kv_heads=sizes.key_heads,
            key_dim=sizes.head_size,
            value_dim=sizes.head_size,
            quantization="int8",
            width=sizes.width,
            target_hidden_size=sizes.width,
            feature_layers=tuple(range(1, sizes.layers + 1)),
            borrows=True,
        )

    def graph(self) -> bytes:
        """Without nodes: its weights alone."""
        weights: dict[str, npt.NDArray[np.generic]] = {f"{name}.weight": norm for name, norm in self.norms.items()}
        weights |= {"constant/cosines": self.cosines, "constant/sines": self.sines}
        block = {"num_heads": self.sizes.heads, "intermediate": self.sizes.intermediate, "norm_epsilon": EPSILON}
        return _model(weights | self._matrices(fuse=False), json.dumps({"block": block}))

    def fuse(self) -> bytes:
        return _model({"feature_mean": self.mean, "feature_scale": self.scale, **self._matrices(fuse=True)})

    def _matrices(self, fuse: bool) -> dict[str, npt.NDArray[np.generic]]:
        names = [name for name in self.bytes if (name == "fuse_proj") == fuse]
        numbers = {f"{name}.weight": self.bytes[name] for name in names}
        return numbers | {f"{name}.weight.scale": self.scales[name] for name in names}

    # The function.

    def run(
        self, tokens: Sequence[int], positions: Sequence[int], visible: npt.NDArray[np.bool_], told: Array,
        above: Sequence[int], borrowed: Array,
    ) -> Array:  # fmt: skip
        """Logits of all rows [n, vocabulary + 1 + borrowed], without a cache.

        told: features of the first rows; above: the row before each of the others.
        """
        sizes, states = self.sizes, np.zeros((0, self.sizes.width))
        keys = values = np.zeros((0, sizes.key_heads, sizes.head_size))
        table = np.concatenate((self.bytes["embed_tokens"] * self.scales["embed_tokens"][:, None], borrowed))
        layers = told.reshape(len(told), sizes.layers, sizes.width)
        fused = (_normed(layers).reshape(len(told), -1) - self.mean) * self.scale
        hidden = self._product(fused, "fuse_proj")
        for row, token in enumerate(tokens):
            before = hidden[row] if row < len(told) else states[above[row - len(told)]]
            beside = np.concatenate((self._norm(table[token], "embedding_norm"), self._norm(before, "hidden_norm")))
            stream = self._product(beside[None], "mix_proj")[0]
            normed = self._norm(stream, "block.input_layernorm")[None]
            query, key, value = (self._product(normed, f"block.self_attn.{part}_proj")[0] for part in "qkv")
            query, key = (self._turned(part, positions[row]) for part in (query, key))
            keys = np.concatenate((keys, key[None]))
            values = np.concatenate((values, value.reshape(1, sizes.key_heads, -1)))
            attended = self._attended(query, keys, values, visible[row, : row + 1])
            stream = stream + self._product(attended[None], "block.self_attn.o_proj")[0]
            normed = self._norm(stream, "block.post_attention_layernorm")[None]
            gate, up = (self._product(normed, f"block.mlp.{part}_proj") for part in ("gate", "up"))
            stream = stream + self._product(gate / (1 + np.exp(-gate)) * up, "block.mlp.down_proj")[0]
            states = np.concatenate((states, stream[None]))
        normed = self._norm(states, "norm")
        own = self._product(normed, "embed_tokens", fine=False)[:, : sizes.vocabulary]
        never = np.full((len(own), 1), -np.inf)
        return np.concatenate((own, never, normed @ borrowed.T), axis=1).astype(np.float32)

    def _norm(self, rows: npt.NDArray[np.float64], name: str) -> npt.NDArray[np.float64]:
        return _normed(rows) * self.norms[name]

    def _turned(self, part: npt.NDArray[np.float64], position: int) -> npt.NDArray[np.float64]:
        low, high = np.split(part.reshape(-1, self.sizes.head_size), 2, axis=1)
        cosine, sine = self.cosines[position], self.sines[position]
        return np.concatenate((low * cosine - high * sine, high * cosine + low * sine), axis=1)

    def _attended(self, query, keys, values, visible) -> npt.NDArray[np.float64]:
        each = self.sizes.heads // self.sizes.key_heads
        found = []
        for head, part in enumerate(query):
            scores = keys[:, head // each] @ part / np.sqrt(self.sizes.head_size)
            weights = np.where(visible, np.exp(scores - scores[visible].max()), 0.0)
            found.append(weights @ values[:, head // each] / weights.sum())
        return np.concatenate(found)

    def _product(self, rows, name: str, fine: bool = True) -> npt.NDArray[np.float64]:
        scale = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-20) / 127
        numbers, weights = rows / scale, self.bytes[name].astype(np.float64)
        rough = np.rint(numbers) if fine else np.floor(numbers + 0.5)
        sums = rough @ weights.T
        if fine:
            sums += np.floor((numbers - rough) * 254 + 0.5) @ weights.T / 254
        return sums * self.scales[name] * scale


def _normed(rows):
    return rows / np.sqrt((rows**2).mean(axis=-1, keepdims=True) + EPSILON)


def _model(weights: dict[str, npt.NDArray[np.generic]], shape: str = "") -> bytes:
    model = ModelProto(graph=GraphProto(name="graph"))
    for name, weight in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    if shape:
        model.metadata_props.add(key="paceline.shape", value=shape)
    content: bytes = model.SerializeToString()
    return content


@cache
def head_of(sizes: Sizes) -> ByteHead:
    return ByteHead(sizes)


@cache
def library() -> ctypes.CDLL:
    return load_library()


@cache
def native(sizes: Sizes, threads: int = 1, tiles: bool = True) -> NativeFeatureHead:
    head = head_of(sizes)
    return native_head(library(), head.graph(), head.fuse(), head.card, threads, tiles)


@dataclass(frozen=True)
class Case:
    """A text that is told, and a tree below its end: `parents` of its nodes, -1 for the text's last token."""

    sizes: Sizes
    tokens: list[int]
    features: Array
    borrowed: Array
    parents: tuple[int, ...]

    @property
    def num_text(self) -> int:
        return len(self.features)

    @property
    def above(self) -> list[int]:
        return [self.num_text + parent if parent >= 0 else self.num_text - 1 for parent in self.parents]

    @property
    def visible(self) -> npt.NDArray[np.bool_]:
        """[all, all]"""
        seen = np.tri(len(self.tokens), dtype=np.bool_)
        for row, above in enumerate(self.above, self.num_text):
            seen[row] = seen[above]
            seen[row, row] = True
        return seen

    @property
    def positions(self) -> list[int]:
        found = list(range(self.num_text))
        for above in self.above:
            found.append(found[above] + 1)
        return found

    def expected(self) -> Array:
        return head_of(self.sizes).run(
            self.tokens, self.positions, self.visible, self.features, self.above, self.borrowed
        )

    def rows(self, cache: KVCache, begin: int, end: int, wanted: Sequence[int], top_k: int = 0) -> Rows:
        """Rows [begin, end), all of the text or all of the tree, on top of those before."""
        told = end <= self.num_text
        return Rows(
            cache=cache,
            tokens=np.array(self.tokens[begin:end]),
            positions=np.array(self.positions[begin:end]),
            visible=self.visible[begin:end, :end],
            wanted=tuple(wanted),
            features=self.features[begin:end] if told else None,
            above=None if told else np.array(self.above[begin - self.num_text : end - self.num_text]),
            borrowed=self.borrowed,
            top_k=top_k,
        )


def case(sizes: Sizes, num_text: int, parents: tuple[int, ...], num_borrowed: int, seed: int) -> Case:
    """By chance: tokens of all kinds, borrowed ones among them."""
    chance = np.random.default_rng(seed)
    highest = sizes.vocabulary + num_borrowed
    features, borrowed = (
        chance.standard_normal(shape).astype(np.float32)
        for shape in ((num_text, sizes.layers * sizes.width), (num_borrowed, sizes.width))
    )
    tokens = chance.integers(0, highest + 1, num_text + len(parents)).tolist()
    return Case(sizes, tokens, features, borrowed / 8, parents)
