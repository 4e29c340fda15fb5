"""Any causal language model of transformers, on a CPU or GPU, as a drafter's model.

Use it where torch is at hand; `onnx_lm` is smaller, starts faster, and takes only what `export` wrote.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel

from paceline.drafter.models.base import LoadedModel, Logits, Rows
from paceline.drafter.models.checks import check_batch
from paceline.drafter.models.pieces import score_in_pieces
from paceline.drafter.models.torch_attention import CachedAttention, TorchCache, attending
from paceline.drafter.models.torch_load import DTYPES, Loaded, is_out_of_memory, load_causal_lm, set_attention
from paceline.drafter.models.torch_probe import probe, reference_logits
from paceline.wire.errors import PacelineError, Reason, out_of_range

MAX_ROWS = 512  # of a session in one forward pass


class TorchLM:
    """See `base.LanguageModel`. Rows of all sessions are one sequence, so there is no padding; each session attends
    over its own cache in place.

    Args:
        model: for inference, on its device, with the attention `torch_attention.ATTENTION`.
        max_length: positions it was made for.
    """

    def __init__(self, model: PreTrainedModel, max_length: int) -> None:
        self.vocab_size = int(model.get_output_embeddings().weight.shape[0])
        self.max_length = max_length
        self._model = model
        self._device = model.device

    def new_cache(self) -> TorchCache:
        return TorchCache()

    @torch.inference_mode()
    def score(self, batch: Sequence[Rows]) -> list[Logits]:
        """See `base.LanguageModel`. Raises PacelineError: OUT_OF_RANGE or MALFORMED for rows that don't suit,
        OVERLOADED if there is no memory for them; caches are then as before."""
        if not batch:
            return []
        check_batch(batch, self.vocab_size, self.max_length)
        return score_in_pieces(self._score, batch, MAX_ROWS)

    def _score(self, batch: Sequence[Rows]) -> list[Logits]:
        caches = [rows.cache for rows in batch]
        own = [cache for cache in caches if isinstance(cache, TorchCache)]
        assert len(own) == len(caches), "caches come from new_cache"
        wanted = _places(batch)
        try:
            with attending(CachedAttention(own, batch)):
                logits = self._forward(batch, wanted or [0])[: len(wanted)]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            why = f"{self._device} has too little memory for these rows; choose a smaller model or --dtype bfloat16"
            raise PacelineError(Reason.OVERLOADED, why) from error
        for cache, rows in zip(own, batch, strict=True):
            cache.extend(rows.positions)
        return np.split(logits, np.cumsum([len(rows.wanted) for rows in batch])[:-1])

    def _forward(self, batch: Sequence[Rows], kept: list[int]) -> Logits:
        """[len(kept), vocab_size]: the head runs on these rows only."""
        tokens = np.concatenate([rows.tokens for rows in batch])
        positions = np.concatenate([rows.positions for rows in batch])
        output = self._model(
            input_ids=torch.from_numpy(tokens)[None].to(self._device),
            position_ids=torch.from_numpy(positions)[None].to(self._device),
            use_cache=False,
            logits_to_keep=torch.tensor(kept, device=self._device),
        )
        logits: Logits = output.logits[0].float().cpu().numpy()
        return logits


def _places(batch: Sequence[Rows]) -> list[int]:
    """Of the wanted rows in the sequence of all."""
    places: list[int] = []
    start = 0
    for rows in batch:
        places.extend(start + row for row in rows.wanted)
        start += len(rows.tokens)
    return places


def load_torch(name: str, *, device: str = "auto", dtype: str = "auto", threads: int = 0) -> LoadedModel:
    """A model that is ready to draft.

    Args:
        name: hub name, folder (weights in safetensors), .gguf file, or `package:NAME` of a Python package with one.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N".
        dtype: "auto" (bfloat16 on a GPU, float32 on the CPU), "float32", "bfloat16" or "float16".
        threads: of the CPU, for the whole process; 0 leaves it to torch.

    Raises:
        PacelineError: UNUSABLE_REVISION or OUT_OF_RANGE; says in one line why not, and what to do.
    """
    if threads:
        torch.set_num_threads(threads)
    place = resolve_device(device)
    loaded = load_causal_lm(name, place, resolve_dtype(dtype, place))
    return LoadedModel(name, make_lm(name, loaded), loaded.tokenizer_json)


def make_lm(name: str, loaded: Loaded) -> TorchLM:
    """Takes a model over, and looks whether that did it good. Raises UNUSABLE_REVISION."""
    reference = reference_logits(name, loaded.model)
    set_attention(loaded.model)
    model = TorchLM(loaded.model, loaded.max_length)
    probe(name, model, reference, loaded.model.dtype)
    return model


def resolve_device(device: str) -> torch.device:
    """Raises OUT_OF_RANGE for what isn't a device, or isn't there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise out_of_range("device", device, "auto, cpu, cuda or cuda:N") from error
    if found.type not in ("cpu", "cuda"):
        raise out_of_range("device", device, "auto, cpu, cuda or cuda:N")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise out_of_range(
            "device", device, f"cpu, or one of the {torch.cuda.device_count()} GPUs that this build of torch can use"
        )
    return found


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    if dtype not in DTYPES:
        raise out_of_range("dtype", dtype, f"auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]
