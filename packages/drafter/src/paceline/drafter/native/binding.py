"""The native head as a Python object. Calls release the interpreter's lock."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class HeadShape:
    """Sizes of a head; of `PacelineHeadConfig` in head.h all but the threads."""

    width: int
    heads: int
    key_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    num_features: int
    feature_size: int
    max_length: int
    epsilon: float


class Part(IntEnum):
    """What a head has. Up to DOWN they are matrices in int8 [outputs, inputs] with a scale for each output."""

    EMBEDDING = 0
    FUSE = 1
    MIX = 2
    QUERY = 3
    KEY = 4
    VALUE = 5
    OUT = 6
    GATE = 7
    UP = 8
    DOWN = 9
    FEATURE_MEAN = 10
    FEATURE_SCALE = 11
    EMBEDDING_NORM = 12
    HIDDEN_NORM = 13
    INPUT_NORM = 14
    POST_NORM = 15
    NORM = 16
    COSINES = 17
    SINES = 18


class _Config(ctypes.Structure):
    _fields_ = [
        *((name, c_int64) for name in (
            "width", "heads", "key_heads", "head_size", "intermediate", "vocabulary", "num_features", "feature_size",
            "max_length", "threads",
        )),
        ("epsilon", c_float), ("tiles", c_int32),
    ]  # fmt: skip


class HeadSession(ctypes.Structure):
    """One session's part in a step: `PacelineHeadSession` in head.h, where it is told what each is."""

    _fields_ = [
        ("count", c_int64), ("length", c_int64),
        *((name, c_void_p) for name in ("visible", "keys", "values", "states", "features", "above", "borrowed")),
        ("num_borrowed", c_int64), ("num_wanted", c_int64), ("wanted", c_void_p), ("scale", c_float),
        ("num_best", c_int64),
        *((name, c_void_p) for name in ("logits", "best", "best_logits", "log_totals", "entropies")),
    ]  # fmt: skip


class _Step(ctypes.Structure):
    _fields_ = [
        ("num_sessions", c_int64), ("tokens", c_void_p), ("positions", c_void_p), ("sessions", POINTER(HeadSession)),
    ]  # fmt: skip


class NativeHead:
    """A head with its weights. Not thread-safe.

    Args:
        library: from `load_library`.
        shape: whose sizes are multiples of 16.
        threads: that compute, the caller's included.
        tiles: whether the processor's matrix unit (AMX) may be used, where there is one.
    """

    def __init__(self, library: ctypes.CDLL, shape: HeadShape, threads: int, tiles: bool = True) -> None:
        _declare(library)
        self._library = library
        config = _Config(
            shape.width, shape.heads, shape.key_heads, shape.head_size, shape.intermediate, shape.vocabulary,
            shape.num_features, shape.feature_size, shape.max_length, threads, shape.epsilon,
            int(tiles),
        )  # fmt: skip
        self._head = library.paceline_head_open(ctypes.byref(config))
        if not self._head:
            raise MemoryError("no memory for the head")

    @property
    def product(self) -> str:
        """How matrices are multiplied: "amx", or "vnni"."""
        name: bytes = self._library.paceline_head_product_name(self._head)
        return name.decode()

    def set(self, part: Part, data: npt.NDArray[np.generic], scales: npt.NDArray[np.float32] | None = None) -> None:
        """Copies a part: int8 with scales, or float32."""
        self._library.paceline_head_set(
            self._head, int(part), data.ctypes.data, None if scales is None else scales.ctypes.data
        )

    def forward(
        self, tokens: npt.NDArray[np.int64], positions: npt.NDArray[np.int64], sessions: ctypes.Array[HeadSession]
    ) -> None:
        """One pass over the sessions' rows, `tokens` and `positions` being those of all, one behind the other."""
        step = _Step(len(sessions), tokens.ctypes.data, positions.ctypes.data, sessions)
        if self._library.paceline_head_forward(self._head, ctypes.byref(step)):
            raise MemoryError(f"no memory for a pass of {len(tokens)} rows")

    def close(self) -> None:
        if self._head:
            self._library.paceline_head_close(self._head)
            self._head = None

    def __del__(self) -> None:
        self.close()


def _declare(library: ctypes.CDLL) -> None:
    library.paceline_head_open.restype = c_void_p
    library.paceline_head_open.argtypes = [POINTER(_Config)]
    library.paceline_head_product_name.restype = c_char_p
    library.paceline_head_product_name.argtypes = [c_void_p]
    library.paceline_head_close.argtypes = [c_void_p]
    library.paceline_head_set.argtypes = [c_void_p, c_int, c_void_p, c_void_p]
    library.paceline_head_forward.argtypes = [c_void_p, POINTER(_Step)]
