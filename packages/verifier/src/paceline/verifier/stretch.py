"""What a drafter is told of the target's hidden states: which, of how many positions, and one stretch at a time.

Features come step by step and go out with the next commit that is told, so they gather: the chunks of a prompt until
the first commit, and several commits if the drafter reads slowly. What gathers is bounded, the latest stays, and there
is never a gap in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.verifier.model.features import Features, FeatureSource
from paceline.wire.errors import out_of_range
from paceline.wire.model_card import MAX_FEATURE_LAYERS

MAX_FEATURE_WINDOW = 2048
VALUE_BYTES = 2


@dataclass(frozen=True, slots=True)
class FeatureWish:
    """The features that a drafter gets.

    Attributes:
        layers: in its order, () for none.
        window: of a prompt, the last positions; 0 for no features at all.
        most: positions that are told at once.
    """

    layers: tuple[int, ...] = ()
    window: int = 0
    most: int = 0


NO_FEATURES = FeatureWish()


def granted(layers: Sequence[int], window: int, source: FeatureSource | None, max_message_bytes: int) -> FeatureWish:
    """What a Hello's feature_layers and feature_window come to.

    Args:
        layers, window: that are asked for.
        source: what the engine can give.
        max_message_bytes: of a gRPC message; features take at most half of one.

    Returns:
        NO_FEATURES if none are asked for, or the engine has none, or not even one position's fit a message.

    Raises:
        PacelineError: OUT_OF_RANGE, too many layers, or one that the target hasn't got.
    """
    if len(layers) > MAX_FEATURE_LAYERS:
        raise out_of_range("hello.feature_layers", f"{len(layers)} entries", f"at most {MAX_FEATURE_LAYERS}")
    if not layers or source is None:
        return NO_FEATURES
    if max(layers) > source.num_layers:
        raise out_of_range(
            "hello.feature_layers", max(layers), f"at most {source.num_layers}, the number of the target's layers"
        )
    position_bytes = len(layers) * source.hidden_size * VALUE_BYTES
    most = min(MAX_FEATURE_WINDOW, max_message_bytes // 2 // position_bytes)
    if most == 0:
        return NO_FEATURES
    return FeatureWish(tuple(layers), min(window or most, most), most)


class Stretch:
    """The latest consecutive features of a session.

    Chunks are kept as the steps brought them, with the layers that others asked for, and shared with the others'
    stretches; what a drafter gets of them is cut out when it is told.

    Args:
        most: positions that it may have.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._chunks: deque[Features] = deque()

    def __len__(self) -> int:
        """Positions."""
        return self._chunks[-1].end - self._chunks[0].first if self._chunks else 0

    def add(self, features: Features) -> None:
        """What follows; if it doesn't, what was there before is dropped."""
        if not len(features.values):
            return
        if self._chunks and features.first != self._chunks[-1].end:
            self._chunks.clear()
        self._chunks.append(features)
        first = features.end - self._most
        while self._chunks[0].end <= first:
            self._chunks.popleft()
        self._chunks[0] = self._chunks[0].between(first, features.end)

    def take(self, layers: tuple[int, ...]) -> tuple[int, bytes]:
        """The first position, and the numbers of these layers as in `paceline.v1.Features`. Nothing is left."""
        first = self._chunks[0].first
        values = b"".join(_encoded(chunk, layers) for chunk in self._chunks)
        self._chunks.clear()
        return first, values


def _encoded(features: Features, layers: tuple[int, ...]) -> bytes:
    values = features.values
    if features.layers != layers:
        values = values[:, [features.layers.index(layer) for layer in layers]]
    return values.astype(np.dtype("<u2"), copy=False).tobytes()
