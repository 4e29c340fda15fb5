"""What a process that loads a model hands to the one that runs it: bytes in shared memory, and JSON of where they lie.

Plain bytes and plain JSON: nothing that is read can run code. The memory has no name and no file; it is gone when both
processes have let go of it, however they end.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any, BinaryIO

import torch

from paceline.verifier.model.decoder import DecoderConfig, DecoderWeights, LayerWeights
from paceline.verifier.model.target import Target
from paceline.verifier.model.tokenizer import TargetTokenizer, TokenizerFile

ALIGNMENT = 64
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Entry = dict[str, Any]  # where one thing lies: {"dtype", "shape", "start"}, or {"path", "sha256", "start", "size"}


@dataclass(frozen=True, slots=True)
class Handover:
    """A loaded model.

    Attributes:
        target: what is to know of it.
        weights: float32 or bfloat16.
        reference: see `exactness.reference_logits`.
    """

    target: Target
    weights: DecoderWeights
    reference: torch.Tensor


def write(handover: Handover, memory: BinaryIO) -> dict[str, Any]:
    """Puts all that is large into `memory`, from where that stands; returns the rest, for JSON. Raises OSError."""
    weights, target = handover.weights, handover.target
    embedding = _put(memory, weights.embedding)
    told = {field.name: getattr(target, field.name) for field in fields(Target) if field.name != "tokenizer"}
    return {
        "target": {**told, "eos_token_ids": sorted(target.eos_token_ids)},
        "files": [_put_file(memory, file) for file in target.tokenizer.files],
        "config": asdict(weights.config),
        "inv_freq": _put(memory, weights.inv_freq),
        "embedding": embedding,
        "layers": [
            {field.name: _put(memory, getattr(layer, field.name)) for field in fields(LayerWeights)}
            for layer in weights.layers
        ],
        "final_norm": _put(memory, weights.final_norm),
        "head": embedding if weights.head is weights.embedding else _put(memory, weights.head),
        "head_bias": _put(memory, weights.head_bias),
        "reference": _put(memory, handover.reference),
    }


def read(told: dict[str, Any], memory: int) -> Handover:
    """What `write` wrote.

    Tensors are views of the memory, which is freed when the last of them is.

    Args:
        told: what `write` returned.
        memory: descriptor of the memory; it can be closed afterwards.
    """
    whole = mmap.mmap(memory, 0)
    files = tuple(_file(whole, entry) for entry in told["files"])
    facts = {**told["target"], "eos_token_ids": frozenset(told["target"]["eos_token_ids"])}
    config = {**told["config"], "sliding_windows": tuple(told["config"]["sliding_windows"])}
    embedding = _tensor(whole, told["embedding"])
    weights = DecoderWeights(
        config=DecoderConfig(**config),
        inv_freq=_tensor(whole, told["inv_freq"]),
        embedding=embedding,
        layers=tuple(LayerWeights(**_tensors(whole, layer.items())) for layer in told["layers"]),
        final_norm=_tensor(whole, told["final_norm"]),
        head=embedding if told["head"] == told["embedding"] else _tensor(whole, told["head"]),
        head_bias=None if told["head_bias"] is None else _tensor(whole, told["head_bias"]),
    )
    target = Target(tokenizer=TargetTokenizer.from_files(files), **facts)
    return Handover(target, weights, _tensor(whole, told["reference"]).clone())


def _put(memory: BinaryIO, tensor: torch.Tensor | None) -> Entry | None:
    if tensor is None:
        return None
    start = _aligned(memory)
    memory.write(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape), "start": start}


def _put_file(memory: BinaryIO, file: TokenizerFile) -> Entry:
    start = _aligned(memory)
    memory.write(file.content)
    return {"path": file.path, "sha256": file.sha256.hex(), "start": start, "size": len(file.content)}


def _aligned(memory: BinaryIO) -> int:
    memory.write(bytes(-memory.tell() % ALIGNMENT))
    return memory.tell()


def _tensors(whole: mmap.mmap, entries: Iterable[tuple[str, Entry | None]]) -> dict[str, torch.Tensor | None]:
    return {name: None if entry is None else _tensor(whole, entry) for name, entry in entries}


def _tensor(whole: mmap.mmap, entry: Entry) -> torch.Tensor:
    shape = torch.Size(entry["shape"])
    flat = torch.frombuffer(whole, dtype=DTYPES[entry["dtype"]], count=shape.numel(), offset=entry["start"])
    return flat.reshape(shape)


def _file(whole: mmap.mmap, entry: Entry) -> TokenizerFile:
    content = whole[entry["start"] : entry["start"] + entry["size"]]
    return TokenizerFile(entry["path"], content, bytes.fromhex(entry["sha256"]))
