"""Listens to what passes between the layers of a transformers model, only while somebody wants to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import structlog
import torch
from torch import nn
from transformers import PreTrainedModel

from paceline.verifier.model.features import FeatureSource

log = structlog.get_logger()


class HiddenStates:
    """The stack of decoder layers of a model, found by what it is, since families call it by different names.

    Args:
        layers: one after the other; each is given the hidden state first, and gives it first.
        hidden_size: of the state.
    """

    def __init__(self, layers: Sequence[nn.Module], hidden_size: int) -> None:
        self.source = FeatureSource(len(layers), hidden_size)
        self._layers = layers

    @classmethod
    def of(cls, model: PreTrainedModel) -> HiddenStates | None:
        """None, with a line in the log, if the model isn't one stack of layers."""
        config = model.config.get_text_config(decoder=True)
        stacks = [
            child
            for child in model.get_decoder().children()
            if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers
        ]
        if len(stacks) != 1:
            log.warning("no hidden states for drafters: the model has not one stack of layers", stacks=len(stacks))
            return None
        return cls(list(stacks[0]), int(config.hidden_size))

    @contextmanager
    def captured(self, feature_layers: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
        """The states [rows, hidden] by layer, once the model's forward has run inside, with a batch of 1."""
        states: dict[int, torch.Tensor] = {}
        with ExitStack() as hooks:
            for layer in set(feature_layers):
                hooks.callback(self._listen(layer, states).remove)
            yield states

    def _listen(self, layer: int, states: dict[int, torch.Tensor]) -> torch.utils.hooks.RemovableHandle:
        def before(_module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            states[layer] = _state(given[0] if given else named["hidden_states"])

        def after(_module: nn.Module, _given: tuple[Any, ...], output: Any) -> None:
            states[layer] = _state(output if isinstance(output, torch.Tensor) else output[0])

        if layer == 0:
            return self._layers[0].register_forward_pre_hook(before, with_kwargs=True)
        return self._layers[layer - 1].register_forward_hook(after)


def _state(hidden: torch.Tensor) -> torch.Tensor:
    """A copy: a layer may go on adding to what it was given."""
    return hidden[0].to(torch.bfloat16, copy=True)
