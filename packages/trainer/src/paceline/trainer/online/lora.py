"""Low-rank adapters (LoRA, Hu et al. 2021) in place of all weights.

A refit then moves a drafter only a little, and keeps a state that is a few percent as large. By peft; merged into the
weights when the refit is over.
"""

from __future__ import annotations

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn


def adapt(module: nn.Module, rank: int, seed: int) -> None:
    """Puts adapters beside all linear layers, which alone are trained from now on. The module computes as before."""
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # peft draws one of each pair
        inject_adapter_in_model(config, module)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_("lora_" in name)


@torch.no_grad()
def merge(module: nn.Module) -> None:
    """Adds what adapters have learned to the weights, and takes them away: the module has its own layers again."""
    for name, part in list(module.named_modules()):
        if isinstance(part, LoraLayer):
            part.merge(safe_merge=True)
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, part.get_base_layer())
    module.requires_grad_(True)
