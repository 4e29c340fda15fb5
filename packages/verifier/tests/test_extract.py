"""Weights read out of transformers' models, against transformers' own logits; and which models are refused, and why."""

from __future__ import annotations

import pytest
import torch
from dense_decoder import dense_logits
from tiny_decoders import KINDS, WINDOW, make_decoder, own_logits
from tiny_models import FAMILIES, VOCAB, make_model, random_tokens
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, MixtralConfig

from paceline.verifier.model.decoder import DecoderWeights
from paceline.verifier.model.extract import NotLlamaLike, check_config, extract
from paceline.verifier.model.linear import pack_linears

LENGTH = 150


def storages(weights: DecoderWeights) -> set[int]:
    tensors = [weights.embedding, weights.head, weights.final_norm]
    for layer in weights.layers:
        tensors += [layer.qkv, layer.o, layer.gate_up, layer.down, layer.input_norm, layer.post_norm]
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_pass_by_the_formulas_gives_transformers_logits(kind):
    model = make_decoder(kind)
    tokens = random_tokens(LENGTH, seed=1)
    expected = own_logits(model, tokens)
    logits = dense_logits(extract(model), tokens)
    assert (logits - expected).abs().max() < 1e-4
    # The models are no pushovers: what came long ago matters.
    assert len(set(expected.argmax(dim=-1).tolist())) > LENGTH / 10


@pytest.mark.parametrize("kind", ["llama tied", "qwen3 sliding"])
def test_the_model_goes_on_computing_what_it_did_and_shares_its_memory(kind):
    model = make_decoder(kind)
    tokens = random_tokens(40, seed=2)
    before = own_logits(model, tokens)
    weights = extract(model)
    assert torch.allclose(own_logits(model, tokens), before, atol=1e-5)
    kept = storages(weights)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2:
            assert parameter.untyped_storage().data_ptr() in kept, name
    # A second reading finds the same.
    assert torch.equal(dense_logits(extract(model), tokens), dense_logits(weights, tokens))


def test_a_tied_head_is_the_embedding_itself():
    tied, untied = extract(make_decoder("llama tied")), extract(make_decoder("llama"))
    assert tied.head is tied.embedding
    assert untied.head is not untied.embedding


def test_shapes_are_those_of_the_docstrings():
    weights = extract(make_decoder("llama 9 of 3", attention_bias=True, mlp_bias=True))
    config, layer = weights.config, weights.layers[2]
    assert (config.num_heads, config.num_kv_heads, config.head_dim, config.num_layers) == (9, 3, 8, 3)
    assert layer.qkv.shape == (15 * 8, 72)
    assert layer.qkv_bias is not None
    assert layer.qkv_bias.shape == (15 * 8,)
    assert layer.o.shape == (72, 72)
    assert layer.gate_up.shape == (160, 72)
    assert layer.down.shape == (72, 80)
    assert weights.inv_freq.shape == (4,)
    assert weights.inv_freq.dtype == torch.float32
    assert weights.head.shape == weights.embedding.shape == (VOCAB, 72)


def test_windows_are_those_that_transformers_applies():
    windows = {kind: extract(make_decoder(kind)).config.sliding_windows for kind in KINDS}
    assert windows["llama"] == windows["qwen2"] == windows["mistral unlimited"] == (None, None, None)
    assert windows["mistral"] == (WINDOW, WINDOW, WINDOW)
    assert windows["qwen2 sliding"] == windows["qwen3 sliding"] == (None, WINDOW, WINDOW)


def test_weights_keep_the_dtype_and_frequencies_stay_float32():
    weights = extract(make_decoder("qwen2").to(torch.bfloat16))
    assert weights.layers[0].qkv.dtype == weights.layers[0].down.dtype == weights.head.dtype == torch.bfloat16
    assert weights.inv_freq.dtype == torch.float32


class _OwnLinear(nn.Linear):
    """As quantizers and adapters make them."""


class _OwnLlama(LlamaForCausalLM):
    pass


def _packed(model):
    pack_linears(model)


def _own_linear(model):
    model.model.layers[1].mlp.up_proj = _OwnLinear(48, 80, bias=False)


def _lone_bias(model):
    model.model.layers[1].self_attn.k_proj = nn.Linear(48, 48)


def _other_eps(model):
    model.model.layers[2].input_layernorm.variance_epsilon = 1e-3


def _hooked(model):
    model.model.layers[0].register_forward_hook(lambda *_arguments: None)


def _replaced_forward(model):
    model.model.layers[0].mlp.forward = lambda x: x


def _mixed(model):
    model.model.layers[0].mlp.to(torch.bfloat16)


def _integers(model):
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.int8)


def _fewer_layers(model):
    model.model.layers = model.model.layers[:2]


def _renormalized(model):
    model.model.embed_tokens.max_norm = 1.0


def _both_ways(model):
    model.config.is_causal = False


def _own_class(model):
    model.__class__ = _OwnLlama


CHANGES = [
    (_packed, "is a PackedLinear, not a Linear"),
    (_own_linear, "layer 1 up_proj is a _OwnLinear"),
    (_lone_bias, "layer 1 has biases in some"),
    (_other_eps, "layer 2 input_layernorm has an epsilon of its own"),
    (_hooked, "model.layers.0 has been changed"),
    (_replaced_forward, "model.layers.0.mlp has been changed"),
    (_mixed, r"gate_proj.weight is torch.bfloat16, the head torch.float32"),
    (_integers, "weights are torch.int8"),
    (_fewer_layers, "2 layers, and its settings say 3"),
    (_renormalized, "embedding is renormalized"),
    (_both_ways, "not causal"),
    (_own_class, "the model is a _OwnLlama"),
    (lambda model: model.to("meta"), "meta"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=[reason for _, reason in CHANGES])
def test_what_was_changed_is_refused_with_a_reason_and_left_alone(change, reason):
    model = make_decoder("llama")
    change(model)
    before = [parameter.data_ptr() for parameter in model.parameters()]
    with pytest.raises(NotLlamaLike, match=reason) as caught:
        extract(model)
    assert caught.value.reason == str(caught.value)
    assert [parameter.data_ptr() for parameter in model.parameters()] == before


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"hidden_act": "gelu_pytorch_tanh"}, "activation is GELUTanh"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "of type dynamic"),
        (
            {
                "rope_parameters": {
                    "rope_type": "longrope",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "short_factor": [1.0] * 6,
                    "long_factor": [2.0] * 6,
                    "original_max_position_embeddings": 128,
                }
            },
            "of type longrope",
        ),
        (
            {
                "rope_parameters": {
                    "rope_type": "linear",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                    "partial_rotary_factor": 0.5,
                }
            },
            "turns 6 of 12 dimensions",
        ),
    ],
)
def test_other_settings_are_refused_with_a_reason(settings, reason):
    with pytest.raises(NotLlamaLike, match=reason):
        extract(make_decoder("llama", **settings))


def test_sliding_layers_without_a_window_are_refused():
    model = make_decoder("qwen2 sliding")
    model.config.sliding_window = None
    with pytest.raises(NotLlamaLike, match="no sliding window"):
        extract(model)


def test_other_families_are_refused_with_a_reason():
    with pytest.raises(NotLlamaLike, match="the model is a Gemma2ForCausalLM, not one of Llama"):
        extract(make_model("gemma2"))
    experts = MixtralConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    with pytest.raises(NotLlamaLike, match="the model is a MixtralForCausalLM"):
        extract(AutoModelForCausalLM.from_config(experts))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_is_refused_by_its_settings_alone_as_by_its_weights(family):
    model = make_model(family)
    try:
        extract(model)
    except NotLlamaLike:
        with pytest.raises(NotLlamaLike, match=f"the model is of type {family}, not one of llama"):
            check_config(model.config)
    else:
        check_config(model.config)
