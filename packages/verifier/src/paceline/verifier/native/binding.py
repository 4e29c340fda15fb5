"""The native decoder as a Python object: lists in, logits and states out. Calls release the interpreter's lock."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p
from enum import IntEnum

import numpy as np
import torch

from paceline.verifier.model.decoder import DecoderWeights
from paceline.verifier.model.features import Bits


class _Config(ctypes.Structure):
    """`PacelineConfig` in decoder.h."""

    _fields_ = [
        *((name, c_int64) for name in (
            "vocabulary", "hidden", "layers", "heads", "key_heads", "head_size", "intermediate", "threads",
        )),
        ("epsilon", c_float), ("attention_scale", c_float), ("rope_scale", c_float), ("bfloat", c_int32),
        ("tiles", c_int32),
    ]  # fmt: skip


class _Step(ctypes.Structure):
    """`PacelineStep` in decoder.h."""

    _fields_ = [
        *((name, c_int64) for name in ("num_rows", "num_sessions", "num_wanted")),
        *((name, c_void_p) for name in (
            "tokens", "parents", "starts", "lengths", "blocks", "block_starts", "wanted", "logits",
        )),
        ("num_best", c_int64), ("best", c_void_p),
        ("num_features", c_int64), ("feature_layers", c_void_p), ("features", c_void_p),
    ]  # fmt: skip


class _Part(IntEnum):
    QKV = 0
    OUT = 1
    GATE_UP = 2
    DOWN = 3
    HEAD = 4
    EMBEDDING = 5
    INPUT_NORM = 6
    POST_NORM = 7
    Q_NORM = 8
    K_NORM = 9
    FINAL_NORM = 10


class NativeDecoder:
    """A decoder with its weights and a cache. Not thread-safe.

    Args:
        library: from `load_library`.
        weights: float32 or bfloat16, on the CPU; they are copied.
        num_threads: that compute, the caller's included.
        tiles: whether weights in bfloat16 may be multiplied by the processor's matrix unit (AMX), where there is one.
    """

    def __init__(self, library: ctypes.CDLL, weights: DecoderWeights, num_threads: int, tiles: bool = True) -> None:
        _declare(library)
        config = weights.config
        self.vocab_size = config.vocab_size
        self._hidden_size = config.hidden_size
        self._library = library
        self._dtype = weights.embedding.dtype
        frequencies = np.ascontiguousarray(weights.inv_freq.float().numpy())
        windows = np.array([window or 0 for window in config.sliding_windows], dtype=np.int32)
        native = _Config(
            config.vocab_size, config.hidden_size, config.num_layers, config.num_heads, config.num_kv_heads,
            config.head_dim, config.intermediate_size, num_threads,
            config.rms_eps, config.attention_scale, config.rope_scale, int(self._dtype == torch.bfloat16),
            int(tiles),
        )  # fmt: skip
        self._decoder = library.paceline_open(ctypes.byref(native), frequencies.ctypes.data, windows.ctypes.data)
        if not self._decoder:
            raise MemoryError("no memory for the decoder")
        self._copy(weights)

    def _copy(self, weights: DecoderWeights) -> None:
        for index, layer in enumerate(weights.layers):
            self._set(index, _Part.QKV, layer.qkv, layer.qkv_bias)
            self._set(index, _Part.OUT, layer.o, layer.o_bias)
            self._set(index, _Part.GATE_UP, layer.gate_up, layer.gate_up_bias)
            self._set(index, _Part.DOWN, layer.down, layer.down_bias)
            self._set(index, _Part.INPUT_NORM, layer.input_norm.float())
            self._set(index, _Part.POST_NORM, layer.post_norm.float())
            if layer.q_norm is not None and layer.k_norm is not None:
                self._set(index, _Part.Q_NORM, layer.q_norm.float())
                self._set(index, _Part.K_NORM, layer.k_norm.float())
        self._set(-1, _Part.FINAL_NORM, weights.final_norm.float())
        self._set(-1, _Part.HEAD, weights.head, weights.head_bias)
        if weights.head.data_ptr() != weights.embedding.data_ptr():
            self._set(-1, _Part.EMBEDDING, weights.embedding)

    def _set(self, layer: int, part: _Part, data: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        data = data.detach().contiguous()
        wide = None if bias is None else bias.detach().float().contiguous()
        pointer = None if wide is None else wide.data_ptr()
        if self._library.paceline_set(self._decoder, layer, int(part), data.data_ptr(), pointer):
            raise MemoryError("no memory for the model's weights")

    def allocate(self, num_blocks: int) -> None:
        """Makes the cache; it takes memory where it is written. Raises MemoryError."""
        if self._library.paceline_allocate(self._decoder, num_blocks):
            raise MemoryError(f"no memory for a cache of {num_blocks} blocks")

    @property
    def product(self) -> str:
        """How matrices are multiplied: "amx", or "fma" for vectors with fused multiply-add."""
        name: bytes = self._library.paceline_product_name(self._decoder)
        return name.decode()

    @property
    def block_bytes(self) -> int:
        return int(self._library.paceline_block_bytes(self._decoder))

    def forward(
        self,
        tokens: Sequence[int],
        parents: Sequence[int],
        starts: Sequence[int],
        lengths: Sequence[int],
        blocks: Sequence[Sequence[int]],
        wanted: Sequence[int],
        num_best: int = 0,
        best_only: bool = False,
        feature_layers: Sequence[int] = (),
    ) -> tuple[torch.Tensor, list[list[int]], Bits | None]:
        """One step: logits [wanted, vocabulary], float32, [wanted][num_best] tokens of the greatest of them, and hidden
        states [rows, layers, hidden] if any are asked for.

        Args:
            tokens: [rows], all sessions' one after the other.
            parents: [rows] index within the session's rows of the token before; -1 for a session's first.
            starts: [sessions + 1] where each session's rows begin.
            lengths: [sessions] tokens that the cache holds.
            blocks: [sessions][…] blocks of each session's cache, with room for the step's rows.
            wanted: rows whose logits are asked for.
            num_best: of each of them.
            best_only: leaves the logits out, [wanted, 0]: writing them takes as long as a fifth of a row.
            feature_layers: behind which the hidden states of all rows are captured; 0 is the embedding.
        """
        arrays = [
            np.array(values, dtype=np.int32)
            for values in (tokens, parents, starts, lengths, [block for row in blocks for block in row],
                           np.cumsum([0, *(len(row) for row in blocks)]), wanted, feature_layers)
        ]  # fmt: skip
        logits = torch.empty(len(wanted), 0 if best_only else self.vocab_size)
        best = np.empty((len(wanted), num_best), dtype=np.int32)
        features: Bits = np.empty((len(tokens), len(feature_layers), self._hidden_size), dtype=np.uint16)
        *rows, layers = (array.ctypes.data for array in arrays)
        step = _Step(
            len(tokens), len(lengths), len(wanted), *rows,
            None if best_only else logits.data_ptr(), num_best, best.ctypes.data,
            len(feature_layers), layers, features.ctypes.data,
        )  # fmt: skip
        if self._library.paceline_forward(self._decoder, ctypes.byref(step)):
            raise MemoryError(f"no memory for a step of {len(tokens)} rows")
        return logits, best.tolist(), features if feature_layers else None

    def move(self, blocks: Sequence[int], sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copies cache entries of one session from positions to earlier ones, in order."""
        arrays = [np.array(values, dtype=np.int32) for values in (blocks, sources, targets)]
        self._library.paceline_move(
            self._decoder, arrays[0].ctypes.data, len(sources), arrays[1].ctypes.data, arrays[2].ctypes.data
        )

    def forget(self, blocks: Sequence[int]) -> None:
        """Gives the memory of blocks that nobody uses back to the system; they can be used again."""
        array = np.array(blocks, dtype=np.int32)
        self._library.paceline_forget(self._decoder, array.ctypes.data, len(blocks))

    def close(self) -> None:
        if self._decoder:
            self._library.paceline_close(self._decoder)
            self._decoder = None

    def __del__(self) -> None:
        self.close()


def _declare(library: ctypes.CDLL) -> None:
    library.paceline_open.restype = c_void_p
    library.paceline_open.argtypes = [POINTER(_Config), c_void_p, c_void_p]
    library.paceline_close.argtypes = [c_void_p]
    library.paceline_product_name.restype = c_char_p
    library.paceline_product_name.argtypes = [c_void_p]
    library.paceline_block_bytes.restype = c_int64
    library.paceline_block_bytes.argtypes = [c_void_p]
    library.paceline_allocate.argtypes = [c_void_p, c_int64]
    library.paceline_set.argtypes = [c_void_p, c_int64, c_int, c_void_p, c_void_p]
    library.paceline_forward.argtypes = [c_void_p, POINTER(_Step)]
    library.paceline_move.argtypes = [c_void_p, c_void_p, c_int64, c_void_p, c_void_p]
    library.paceline_forget.argtypes = [c_void_p, c_void_p, c_int64]
