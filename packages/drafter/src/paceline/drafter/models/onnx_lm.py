"""A language model that `export` wrote, run by ONNX Runtime alone: no torch, no transformers, ready in a moment.

Use it on edge devices, and wherever memory or the time until ready matter.

What the graph takes and gives is told in `paceline.wire.model_card`. Positions come before heads, so a session's past
is one stretch of memory, and a lone session's goes in as it lies.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import structlog

from paceline.drafter.models.base import LoadedModel, Logits, Rows
from paceline.drafter.models.checks import check_batch, first_moved
from paceline.drafter.models.pieces import score_in_pieces
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.model_card import LanguageModelCard
from paceline.wire.revision_folder import GRAPH, TOKENIZER, open_revision

log = structlog.get_logger()

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
MIN_CAPACITY = 64  # rows
MAX_ROWS = 128  # of a session in one forward pass

Past = npt.NDArray[np.float32]
Feed = dict[str, npt.NDArray[Any]]


class OnnxCache:
    """Keys and values of one session's rows, with room to grow. See `base.KVCache`."""

    def __init__(self, card: LanguageModelCard) -> None:
        self._length = 0
        # [layers, capacity, kv_heads, dim]
        self._parts = [
            np.empty((card.num_layers, 0, card.num_kv_heads, dim), np.float32) for dim in (card.key_dim, card.value_dim)
        ]

    def __len__(self) -> int:
        return self._length

    def keep(self, rows: Sequence[int]) -> None:
        start, count = first_moved(rows, self._length), len(rows)
        if start < count:
            for part in self._parts:
                part[:, start:count] = part[:, np.asarray(rows[start:])]
        self._length = count

    def past(self, layer: int) -> tuple[Past, Past]:
        """A layer's keys and values [len, kv_heads, dim]; not copied."""
        keys, values = (part[layer, : self._length] for part in self._parts)
        return keys, values

    def extend(self, new: Sequence[Past]) -> None:
        """Adds rows: keys and values [n, kv_heads, dim] of the first layer, then of the next."""
        end = self._length + len(new[0])
        if self._parts[0].shape[1] < end:
            self._grow(max(MIN_CAPACITY, end + end // 2))
        for index, rows in enumerate(new):
            self._parts[index % 2][index // 2, self._length : end] = rows
        self._length = end

    def _grow(self, capacity: int) -> None:
        for index, part in enumerate(self._parts):
            grown = np.empty((part.shape[0], capacity, *part.shape[2:]), np.float32)
            grown[:, : self._length] = part[:, : self._length]
            self._parts[index] = grown


class OnnxLM:
    """See `base.LanguageModel`.

    Args:
        session: of a graph as described above.
        card: what is to know of it.
    """

    def __init__(self, session: onnxruntime.InferenceSession, card: LanguageModelCard) -> None:
        self.vocab_size = card.vocab_size
        self.max_length = card.max_length
        self._session = session
        self._card = card
        self._outputs = output_names(card.num_layers)

    def new_cache(self) -> OnnxCache:
        return OnnxCache(self._card)

    def score(self, batch: Sequence[Rows]) -> list[Logits]:
        """See `base.LanguageModel`. Raises PacelineError: OUT_OF_RANGE or MALFORMED for rows that don't suit,
        UNUSABLE_REVISION if the graph fails; caches are then as before."""
        if not batch:
            return []
        check_batch(batch, self.vocab_size, self.max_length)
        return score_in_pieces(self._score, batch, MAX_ROWS)

    def _score(self, batch: Sequence[Rows]) -> list[Logits]:
        own = [rows.cache for rows in batch if isinstance(rows.cache, OnnxCache)]
        assert len(own) == len(batch), "caches come from new_cache"
        logits, *new = self._run(_feed(batch, own, self._card.num_layers))
        for index, (rows, cache) in enumerate(zip(batch, own, strict=True)):
            cache.extend([part[index, : len(rows.tokens)] for part in new])
        return np.split(logits, np.cumsum([len(rows.wanted) for rows in batch])[:-1])

    def _run(self, feed: Feed) -> list[npt.NDArray[np.float32]]:
        try:
            found: list[npt.NDArray[np.float32]] = self._session.run(self._outputs, feed)
        except Exception as error:  # ONNX Runtime's exceptions have no common type
            raise _unusable(f"its graph fails: {_first_line(error)}; export the model again") from error
        count, length = feed["input_ids"].shape
        heads, dims = self._card.num_kv_heads, (self._card.key_dim, self._card.value_dim)
        expected: list[tuple[int, ...]] = [(len(feed["wanted"]), self.vocab_size)]
        expected += [(count, length, heads, dim) for _ in range(self._card.num_layers) for dim in dims]
        if [array.shape for array in found] != expected:
            raise _unusable("its graph gives other shapes than it says; export the model again")
        return found


def input_names(num_layers: int) -> list[str]:
    return ["input_ids", "position_ids", "visible", "wanted", *_cache_names("past", num_layers)]


def output_names(num_layers: int) -> list[str]:
    return ["logits", *_cache_names("new", num_layers)]


def _cache_names(prefix: str, num_layers: int) -> list[str]:
    return [f"{prefix}_{part}_{layer}" for layer in range(num_layers) for part in ("key", "value")]


def _feed(batch: Sequence[Rows], caches: Sequence[OnnxCache], num_layers: int) -> Feed:
    """Sessions side by side, the shorter ones padded behind their past and behind their new rows."""
    past = max(map(len, caches))
    length = max(len(rows.tokens) for rows in batch)
    shape = (len(batch), length)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    visible = np.zeros((*shape, past + length), bool)
    visible[:, :, past:] = np.eye(length, dtype=bool)  # padding sees itself: nothing at all has no average
    wanted: list[int] = []
    for index, (rows, cache) in enumerate(zip(batch, caches, strict=True)):
        count, own = len(rows.tokens), len(cache)
        ids[index, :count] = rows.tokens
        positions[index, :count] = rows.positions
        visible[index, :count, :own] = rows.visible[:, :own]
        visible[index, :count, past : past + count] = rows.visible[:, own:]
        wanted.extend(index * length + row for row in rows.wanted)
    feed: Feed = {"input_ids": ids, "position_ids": positions, "visible": visible, "wanted": np.array(wanted, np.int64)}
    names = _cache_names("past", num_layers)
    for layer in range(num_layers):
        pasts = [cache.past(layer) for cache in caches]
        for part, name in enumerate(names[2 * layer : 2 * layer + 2]):
            feed[name] = _stacked([both[part] for both in pasts], past)
    return feed


def _stacked(parts: Sequence[Past], length: int) -> Past:
    """[B, length, kv_heads, dim]. A lone one is not copied. Padding is 0: its weight is 0, but 0 * nan is not."""
    if len(parts) == 1:
        return parts[0][None]
    stacked = np.zeros((len(parts), length, *parts[0].shape[1:]), np.float32)
    for index, part in enumerate(parts):
        stacked[index, : len(part)] = part
    return stacked


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
    tokenizer_json = _text(revision.read(TOKENIZER))
    model = OnnxLM(open_session(revision.read(GRAPH), threads, provider), revision.card)
    _check_graph(model)
    _give_memory_back()
    return LoadedModel(revision.manifest.drafter, model, tokenizer_json)


def open_session(graph: bytes, threads: int, provider: str = "cpu") -> onnxruntime.InferenceSession:
    """Raises UNUSABLE_REVISION for what isn't a graph that this machine can run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what matters comes as an exception
    # An arena would keep the memory of the largest step for ever; steps take the same time without.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Weights may lie in files of their own, which nobody has checked: they are looked for where there is none.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the verifier's cores may be these
    wanted = _providers(provider)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=wanted, enable_fallback=0)
    except Exception as error:  # as above
        if len(wanted) > 1:
            log.warning("the model can't run on the GPU; it runs on the CPU", why=_first_line(error))
            return open_session(graph, threads)
        raise _unusable(f"its graph can't be loaded: {_first_line(error)}; export the model again") from error
    if session.get_providers()[0] != wanted[0]:
        log.warning("no usable GPU; the model runs on the CPU", provider=provider)
    session._model_bytes = None  # it would hold the graph for a fallback that is turned off here
    return session


def _providers(provider: str) -> list[str]:
    if provider not in ("auto", *PROVIDERS):
        raise out_of_range("provider", provider, f"auto, {', '.join(PROVIDERS)}")
    has_cuda = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    if provider == "cuda" and not has_cuda:
        log.warning("this build of ONNX Runtime has no CUDA; the model runs on the CPU", install="onnxruntime-gpu")
    return [PROVIDERS["cuda"], PROVIDERS["cpu"]] if has_cuda and provider != "cpu" else [PROVIDERS["cpu"]]


def _check_graph(model: OnnxLM) -> None:
    """That the graph takes and gives what its card says; runs it on two rows, which also lays out its weights."""
    card, session = model._card, model._session
    floats = dict.fromkeys(input_names(card.num_layers)[4:], ("tensor(float)", 4))
    ids = dict.fromkeys(("input_ids", "position_ids"), ("tensor(int64)", 2))
    expected = {**ids, "visible": ("tensor(bool)", 3), "wanted": ("tensor(int64)", 1), **floats}
    try:
        takes = {item.name: (item.type, len(item.shape)) for item in session.get_inputs()}
        gives = [item.name for item in session.get_outputs()]
    except UnicodeDecodeError as error:
        raise _unusable("its graph has names that are not UTF-8; export the model again") from error
    if takes != expected or gives != output_names(card.num_layers):
        raise _unusable("its graph has other inputs or outputs than its card says; export the model again")
    cache = model.new_cache()
    for position in range(min(2, card.max_length)):
        seen = np.ones((1, position + 1), bool)
        logits = model.score([Rows(cache, np.zeros(1, np.int64), np.array([position]), seen, (0,))])[0]
        if not np.isfinite(logits).all():
            raise _unusable("its logits are not finite; export the model again")


def _give_memory_back() -> None:
    """What loading left on the heap, up to half as much as the weights. glibc keeps it unless it is told."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _unusable(f"its {TOKENIZER} is not UTF-8; export the model again") from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _unusable(why: str) -> PacelineError:
    return PacelineError(Reason.UNUSABLE_REVISION, f"revision: {why}", field="revision")
