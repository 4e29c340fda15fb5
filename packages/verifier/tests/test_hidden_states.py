"""What passes between the layers of transformers' models, whatever they are called."""

from __future__ import annotations

import pytest
import torch
from tiny_models import FAMILIES, VOCAB, make_model, random_tokens
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from paceline.verifier.model.hidden_states import HiddenStates

TOKENS = random_tokens(9, seed=1)


def make(name: str) -> PreTrainedModel:
    """Also of families whose layers are called otherwise, or give tuples."""
    torch.manual_seed(0)
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=3, n_head=2)).eval()
    if name == "gpt_neox":
        config = GPTNeoXConfig(
            vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64
        )
        return GPTNeoXForCausalLM(config).eval()
    return make_model(name)


def hooks(model: PreTrainedModel) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@pytest.mark.parametrize("name", [*FAMILIES, "gpt2", "gpt_neox"])
@torch.inference_mode()
def test_they_are_numbered_as_transformers_numbers_them(name):
    model = make(name)
    listener = HiddenStates.of(model)
    num_layers = listener.source.num_layers
    inputs = {"input_ids": torch.tensor([TOKENS]), "use_cache": False}
    own = model(**inputs, output_hidden_states=True).hidden_states
    assert len(own) == num_layers + 1
    assert listener.source.hidden_size == own[0].shape[-1]
    before = hooks(model)
    with listener.captured(range(num_layers + 1)) as states:
        model(**inputs)
    assert hooks(model) == before
    for layer in range(num_layers):
        assert torch.equal(states[layer], own[layer][0].bfloat16()), layer
    assert not torch.equal(states[num_layers], own[num_layers][0].bfloat16())  # that one is normed


def test_nothing_is_listened_to_after_a_forward_that_failed():
    model = make_model("llama")
    before = hooks(model)
    with pytest.raises(ZeroDivisionError), HiddenStates.of(model).captured((0, 1)):
        _ = 1 / 0
    assert hooks(model) == before


@torch.inference_mode()
def test_only_the_layers_that_are_asked_for_are_captured():
    model = make_model("llama")
    with HiddenStates.of(model).captured((2, 2)) as states:
        model(torch.tensor([TOKENS]), use_cache=False)
    assert list(states) == [2]


def test_a_model_that_is_not_one_stack_of_layers_has_none():
    model = make_model("llama")
    model.model.more = nn.ModuleList([nn.Identity(), nn.Identity()])
    assert HiddenStates.of(model) is None
    model = make_model("llama")
    model.config.num_hidden_layers = 3
    assert HiddenStates.of(model) is None
