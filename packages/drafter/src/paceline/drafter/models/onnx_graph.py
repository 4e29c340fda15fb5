"""Makes an ONNX graph of a transformers model: keys and values, mask and positions are plain inputs and outputs.

The graph's form is in `onnx_lm`. Nothing here is needed to run it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from torch import nn
from torch.export import Dim
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from paceline.drafter.models.onnx_lm import input_names, output_names
from paceline.drafter.models.torch_attention import Call, attending
from paceline.wire.model_card import LanguageModelCard

# Weights of 32 in a row share a scale; rows of the input are rounded one by one, so a row's logits don't depend on
# which others are in the batch. SmolLM2-135M's best token stays the same at 96 % of positions, 89 % with blocks of 128;
# with ONNX Runtime's dynamic quantization, which rounds all rows by one scale, at 51 %.
BLOCK_SIZE = 32
BITS = 8
COMPUTE_INT8 = 4  # MatMulNBits' accuracy_level
HIDDEN = -3.0e38  # added to a score; -inf would be nan where padding sees nothing
OPSET = 18


class _Step:
    """Attention over keys and values that are inputs; see `torch_attention.Attention`."""

    def __init__(self, batch: int, past: Sequence[torch.Tensor], mask: torch.Tensor) -> None:
        self.new: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._batch = batch
        self._past = past
        self._mask = mask

    def attend(self, call: Call) -> torch.Tensor:
        """Rows come as one sequence and are taken apart by session: [1, heads, B * Q, dim] -> [B, Q, heads, dim]."""
        query, key, value = (self._apart(part) for part in (call.query, call.key, call.value))
        self.new[call.layer] = (key, value)
        keys = torch.cat((self._past[2 * call.layer], key), dim=1).permute(0, 2, 3, 1)
        values = torch.cat((self._past[2 * call.layer + 1], value), dim=1).transpose(1, 2)
        batch, length, heads, dim = query.shape
        # Query heads that share keys are rows of one product.
        stacked = (query.transpose(1, 2) * call.scale).reshape(batch, keys.shape[1], -1, dim)
        scores = stacked @ keys
        if call.softcap is not None:
            scores = call.softcap * torch.tanh(scores / call.softcap)
        weights = torch.softmax(scores.reshape(batch, heads, length, -1) + self._mask, dim=-1)
        attended = weights.reshape(batch, keys.shape[1], stacked.shape[2], -1) @ values
        return attended.reshape(batch, heads, length, -1).transpose(1, 2).reshape(1, batch * length, heads, -1)

    def _apart(self, part: torch.Tensor) -> torch.Tensor:
        _, heads, rows, dim = part.shape
        return part[0].transpose(0, 1).reshape(self._batch, rows // self._batch, heads, dim)


class _Graph(nn.Module):
    def __init__(self, model: PreTrainedModel, num_layers: int) -> None:
        super().__init__()
        self.model = model
        self.num_layers = num_layers

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        visible: torch.Tensor,
        wanted: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        step = _Step(input_ids.shape[0], past, torch.where(visible, 0.0, HIDDEN)[:, None])
        with attending(step):
            logits = self.model(
                input_ids=input_ids.reshape(1, -1),
                position_ids=position_ids.reshape(1, -1),
                use_cache=False,
                logits_to_keep=wanted,
            ).logits
        new = (part for layer in range(self.num_layers) for part in step.new[layer])
        return (logits[0], *new)


class _SmallEmbedding(nn.Module):
    """An embedding in int8 with a scale for each token."""

    def __init__(self, embedding: nn.Embedding) -> None:
        super().__init__()
        weight = embedding.weight.detach()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("table", torch.round(weight / scale).to(torch.int8))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return nn.functional.embedding(ids, self.table).float() * nn.functional.embedding(ids, self.scale)


def write_graph(model: PreTrainedModel, card: LanguageModelCard, path: Path) -> None:
    """Writes the graph with its weights, float32.

    Args:
        model: float32, on the CPU, with the attention `torch_attention.ATTENTION`. Some of its parts are replaced by
            others that compute the same, or, if card.quantization is int8, nearly so.
    """
    _as_linear(model)
    if card.quantization == "int8" and type(model.get_input_embeddings()) is nn.Embedding:
        model.set_input_embeddings(_SmallEmbedding(model.get_input_embeddings()))
    example, shapes = _example(card)
    with _quiet(), torch.inference_mode(False), torch.no_grad():
        program = torch.onnx.export(
            _Graph(model, card.num_layers).eval(),
            example,
            dynamo=True,
            input_names=input_names(card.num_layers),
            output_names=output_names(card.num_layers),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    program.save(str(path))


def _example(card: LanguageModelCard) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Inputs to trace with, and which of their sizes may be others."""
    # They differ from one another and from 1: the exporter takes equal ones for the same, and 1 for fixed.
    batch, length, past, wanted = 2, 3, 5, 4
    dims = (card.key_dim, card.value_dim) * card.num_layers
    example = (
        torch.zeros(batch, length, dtype=torch.long),
        torch.arange(past, past + length).expand(batch, -1).contiguous(),
        torch.ones(batch, length, past + length, dtype=torch.bool),
        torch.arange(wanted),
        [torch.zeros(batch, past, card.num_kv_heads, dim) for dim in dims],
    )
    dynamic = Dim.DYNAMIC
    shapes = (
        {0: dynamic, 1: dynamic},
        {0: dynamic, 1: dynamic},
        {0: dynamic, 1: dynamic, 2: dynamic},
        {0: dynamic},
        [{0: dynamic, 1: dynamic}] * len(dims),
    )
    return example, shapes


def quantize(path: Path) -> None:
    """Weights of matrix products to int8, in place; keys, values and everything between products stay float32."""
    quantizer = MatMulNBitsQuantizer(
        onnx.load(str(path)), bits=BITS, block_size=BLOCK_SIZE, is_symmetric=True, accuracy_level=COMPUTE_INT8
    )
    with _quiet():
        quantizer.process()
    onnx.save(quantizer.model.model, str(path))


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporter and quantizer log every node, and warn of packages and versions of their own."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _as_linear(model: PreTrainedModel) -> None:
    """GPT-2's transposed layers to plain ones: the same numbers, as products that can be quantized."""
    for name, module in list(model.named_modules()):
        if type(module) is Conv1D:
            linear = nn.Linear(*module.weight.shape)
            linear.weight.data, linear.bias.data = module.weight.data.t().contiguous(), module.bias.data
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, linear.requires_grad_(False))
