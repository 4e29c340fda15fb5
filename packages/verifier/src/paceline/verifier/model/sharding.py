"""A model shared out among processes, by the plan that transformers has for it: heads, columns, vocabulary.

The plan's sums are exchanged for ours: a row's sum over the processes is taken in the order of their ranks. An
all-reduce among more than two takes it in an order that follows where in the buffer a number lies, and so the number of
rows in the step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformers import PretrainedConfig
from transformers.distributed import DistributedConfig
from transformers.distributed.parallel_utils import ALL_PARALLEL_STYLES, replace_layer_number_by_wildcard
from transformers.distributed.tensor_parallel import RowwiseParallel

from paceline.wire.settings import StartupError

HEADS = {"num_attention_heads": "attention heads", "num_key_value_heads": "key-value heads"}
SUMMING = ("rowwise", "rowwise_rep", "rowwise_split_input")  # transformers' names for layers that end in a sum


class SumInRankOrder(RowwiseParallel):
    """A linear layer of which each process has some inputs: every process gets all shares of the sum and adds them."""

    def transform_output_post_forward(self, module: nn.Module, output: Any, mesh: DeviceMesh) -> Any:
        if isinstance(output, DTensor):
            return super().transform_output_post_forward(module, output, mesh)
        output = output.contiguous()
        shares = [torch.empty_like(output) for _ in range(mesh.size())]
        dist.all_gather(shares, output, group=mesh.get_group())
        total = shares[0].float()
        for share in shares[1:]:
            total += share
        total = total.to(output.dtype)
        bias = module._parameters.get("bias")
        return total if bias is None else total + local(bias)


def sharding(name: str, config: PretrainedConfig, size: int) -> DistributedConfig:
    """What makes transformers load only this process's share of a model.

    Args:
        name: of the model, for errors.
        config: of the model.
        size: number of processes, 2 or more.

    Raises:
        StartupError: the model can't be shared out among so many.
    """
    text = config.get_text_config()
    if not text.base_model_tp_plan:
        raise StartupError(
            f"--model {name}: transformers has no plan for sharing {type(config).__name__.removesuffix('Config')} out "
            f"among {size} processes; start one without torchrun, or choose another model"
        )
    for field, what in HEADS.items():
        count = getattr(text, field, None) or size
        if count % size:
            raise StartupError(
                f"--model {name}: its {count} {what} can't be shared out evenly among {size} processes; choose an "
                f"--nproc-per-node that divides {count}"
            )
    for style in SUMMING:
        ALL_PARALLEL_STYLES.register(style, SumInRankOrder(**_layouts(style)))
    return DistributedConfig(tp_size=size)


def _layouts(style: str) -> dict[str, Any]:
    """Where transformers' own layer of that style expects its inputs."""
    own: RowwiseParallel = ALL_PARALLEL_STYLES[style]
    return {"input_layouts": own.input_layouts, "output_layouts": own.output_layouts}


def join_shares(model: nn.Module, name: str, layer: nn.Linear, replacement: nn.Linear) -> None:
    """Puts around a layer's replacement what transformers put around the layer, if it shared it out.

    Args:
        model: the layer is in it, under `name`.
        layer: as it was loaded.
        replacement: computes this process's share.
    """
    if isinstance(layer.weight, DTensor):
        style = model.tp_plan[replace_layer_number_by_wildcard(name)]  # type: ignore[index, operator]
        ALL_PARALLEL_STYLES[style].install_forward(replacement, layer.weight.device_mesh)


def local(parameter: torch.Tensor) -> torch.Tensor:
    """This process's share of it."""
    share: torch.Tensor = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return share
