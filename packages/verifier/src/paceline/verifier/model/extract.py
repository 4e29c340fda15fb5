"""Reads the weights of a Llama-like decoder out of a loaded transformers model.

`extract` accepts only models that the formulas in `decoder` reproduce exactly, and checks types rather than names of
settings: a module that is not plainly what its family is made of (quantized, adapted, offloaded, of a later version) is
refused.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import SiLUActivation

from paceline.verifier.model.decoder import DecoderConfig, DecoderWeights, LayerWeights

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # their frequencies don't depend on the sequence's length


class NotLlamaLike(Exception):
    """The model is not one that `extract` reproduces; `reason` says in a few words why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Family:
    """Where a class of models and its parts are defined, how the parts are called, how layers get their window."""

    module: str
    prefix: str
    window: str  # "none", "all" layers, or "typed" by config.layer_types
    head_norms: bool = False


FAMILIES = {
    "LlamaForCausalLM": _Family("transformers.models.llama.modeling_llama", "Llama", "none"),
    "MistralForCausalLM": _Family("transformers.models.mistral.modeling_mistral", "Mistral", "all"),
    "Qwen2ForCausalLM": _Family("transformers.models.qwen2.modeling_qwen2", "Qwen2", "typed"),
    "Qwen3ForCausalLM": _Family("transformers.models.qwen3.modeling_qwen3", "Qwen3", "typed", head_norms=True),
}


def extract(model: PreTrainedModel) -> DecoderWeights:
    """The weights of `model`, which must have been loaded for inference and lie on one device.

    Nothing is held twice: q, k and v, and gate and up, are copied into one tensor each, layer by layer, and the model's
    own parameters become rows of those. The other tensors are the model's own. So the model goes on computing what it
    did, for example to compare with; changing its weights changes these.

    Raises:
        NotLlamaLike: before anything was changed.
    """
    family = _family(model)
    _check(model, family)
    config = _config(model, family)
    core, head = model.model, model.lm_head
    embedding = _dense(core.embed_tokens.weight)
    return DecoderWeights(
        config=config,
        inv_freq=core.rotary_emb.inv_freq.detach().float(),
        embedding=embedding,
        layers=tuple(_read_layer(layer) for layer in core.layers),
        final_norm=core.norm.weight.detach(),
        head=embedding if head.weight is core.embed_tokens.weight else _dense(head.weight),
        head_bias=_bias(head),
    )


def check_config(config: PreTrainedConfig) -> None:
    """What can be said before the weights are loaded. Raises NotLlamaLike."""
    types = [family.module.split(".")[2] for family in FAMILIES.values()]
    if config.model_type not in types:
        raise NotLlamaLike(f"the model is of type {config.model_type}, not one of {', '.join(types)}")


def _family(model: PreTrainedModel) -> _Family:
    name = type(model).__name__
    family = FAMILIES.get(name)
    if family is None:
        raise NotLlamaLike(f"the model is a {name}, not one of {', '.join(FAMILIES)}")
    if type(model).__module__ != family.module:
        raise NotLlamaLike(f"{name} comes from {type(model).__module__}, not from {family.module}")
    return family


def _check(model: PreTrainedModel, family: _Family) -> None:
    """That all parts are what the family is made of, and nothing else."""
    here = sys.modules[family.module]
    config = model.config
    core = model.model
    _expect("model", core, getattr(here, f"{family.prefix}Model"))
    _expect("embed_tokens", core.embed_tokens, nn.Embedding)
    if core.embed_tokens.max_norm is not None:
        raise NotLlamaLike("its embedding is renormalized")
    _expect("lm_head", model.lm_head, nn.Linear)
    if model.lm_head.weight.shape != core.embed_tokens.weight.shape:
        raise NotLlamaLike("its head and its embedding have different shapes")
    _check_rope(core.rotary_emb, getattr(here, f"{family.prefix}RotaryEmbedding"), core.layers[0].self_attn.head_dim)
    if len(core.layers) != config.num_hidden_layers:
        raise NotLlamaLike(f"it has {len(core.layers)} layers, and its settings say {config.num_hidden_layers}")
    if not getattr(config, "is_causal", True):
        raise NotLlamaLike("its attention is not causal")
    for index, layer in enumerate(core.layers):
        _check_layer(f"layer {index}", layer, here, family)
    _check_norm("norm", core.norm, here, family, config.rms_norm_eps)
    _check_untouched(model)
    _check_tensors(model)


def _check_layer(name: str, layer: Any, here: ModuleType, family: _Family) -> None:
    _expect(name, layer, getattr(here, f"{family.prefix}DecoderLayer"))
    attention, mlp = layer.self_attn, layer.mlp
    _expect(f"{name} self_attn", attention, getattr(here, f"{family.prefix}Attention"))
    _expect(f"{name} mlp", mlp, getattr(here, f"{family.prefix}MLP"))
    _check_shapes(name, layer, attention.config)
    if type(mlp.act_fn) not in (SiLUActivation, nn.SiLU):
        raise NotLlamaLike(f"its activation is {type(mlp.act_fn).__name__}, not SiLU")
    eps = attention.config.rms_norm_eps
    norms = [("input_layernorm", layer), ("post_attention_layernorm", layer)]
    if family.head_norms:
        norms += [("q_norm", attention), ("k_norm", attention)]
    for part, owner in norms:
        _check_norm(f"{name} {part}", getattr(owner, part), here, family, eps)


def _check_shapes(name: str, layer: Any, settings: Any) -> None:
    """That the settings say of the linear layers what they are."""
    attention, mlp = layer.self_attn, layer.mlp
    hidden, inner = settings.hidden_size, settings.intermediate_size
    queries, keys = (
        count * attention.head_dim for count in (settings.num_attention_heads, settings.num_key_value_heads)
    )
    expected = {
        "q_proj": (attention.q_proj, (queries, hidden)),
        "k_proj": (attention.k_proj, (keys, hidden)),
        "v_proj": (attention.v_proj, (keys, hidden)),
        "o_proj": (attention.o_proj, (hidden, queries)),
        "gate_proj": (mlp.gate_proj, (inner, hidden)),
        "up_proj": (mlp.up_proj, (inner, hidden)),
        "down_proj": (mlp.down_proj, (hidden, inner)),
    }
    for part, (linear, shape) in expected.items():
        _expect(f"{name} {part}", linear, nn.Linear)
        if tuple(linear.weight.shape) != shape:
            raise NotLlamaLike(f"{name} {part} is {tuple(linear.weight.shape)}, and its settings say {shape}")
    for together in ((attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)):
        if len({linear.bias is None for linear in together}) > 1:
            raise NotLlamaLike(f"{name} has biases in some of its layers with the same input, not in all")


def _check_norm(name: str, norm: Any, here: ModuleType, family: _Family, eps: float) -> None:
    _expect(name, norm, getattr(here, f"{family.prefix}RMSNorm"))
    if norm.variance_epsilon != eps:
        raise NotLlamaLike(f"{name} has an epsilon of its own, {norm.variance_epsilon}")


def _check_rope(rotary: Any, kind: type, head_dim: int) -> None:
    _expect("rotary_emb", rotary, kind)
    if rotary.rope_type not in ROPE_TYPES:
        raise NotLlamaLike(f"its rotary embedding is of type {rotary.rope_type}, not {', '.join(ROPE_TYPES)}")
    if 2 * rotary.inv_freq.shape[0] != head_dim:
        raise NotLlamaLike(f"its rotary embedding turns {2 * rotary.inv_freq.shape[0]} of {head_dim} dimensions")


def _expect(name: str, module: Any, kind: type) -> None:
    if type(module) is not kind:
        raise NotLlamaLike(f"{name} is a {type(module).__name__}, not a {kind.__name__}")


def _check_untouched(model: PreTrainedModel) -> None:
    """That nobody hooked into a module or replaced its forward, as offloading and adapters do."""
    for name, module in model.named_modules():
        if "forward" in vars(module) or module._forward_hooks or module._forward_pre_hooks:
            raise NotLlamaLike(f"{name or 'the model'} has been changed: its forward is replaced or hooked")


def _check_tensors(model: PreTrainedModel) -> None:
    """That parameters are plain dense tensors of one dtype on one device."""
    first = model.lm_head.weight
    if first.dtype not in DTYPES:
        raise NotLlamaLike(f"its weights are {first.dtype}")
    for name, parameter in model.named_parameters():
        if type(parameter) is not nn.Parameter or type(parameter.data) is not torch.Tensor:
            raise NotLlamaLike(f"{name} is a {type(parameter.data).__name__}, not a plain tensor")
        if parameter.is_meta or parameter.device != first.device:
            raise NotLlamaLike(f"{name} is on {parameter.device}, the head on {first.device}")
        if parameter.dtype != first.dtype:
            raise NotLlamaLike(f"{name} is {parameter.dtype}, the head {first.dtype}")


def _config(model: PreTrainedModel, family: _Family) -> DecoderConfig:
    core, settings = model.model, model.config
    attention = core.layers[0].self_attn
    return DecoderConfig(
        vocab_size=int(core.embed_tokens.weight.shape[0]),
        hidden_size=int(settings.hidden_size),
        num_layers=len(core.layers),
        num_heads=int(settings.num_attention_heads),
        num_kv_heads=int(settings.num_key_value_heads),
        head_dim=int(attention.head_dim),
        intermediate_size=int(settings.intermediate_size),
        rms_eps=float(settings.rms_norm_eps),
        activation="silu",
        attention_scale=float(attention.scaling),
        rope_scale=float(core.rotary_emb.attention_scaling),
        sliding_windows=_windows(settings, family),
    )


def _windows(settings: Any, family: _Family) -> tuple[int | None, ...]:
    """As the models make their masks: Llama has no windows, Mistral one for all layers, Qwen goes by layer type."""
    num_layers = int(settings.num_hidden_layers)
    if family.window == "none":
        return (None,) * num_layers
    window = None if settings.sliding_window is None else int(settings.sliding_window)
    if family.window == "all":
        return (window,) * num_layers
    types = tuple(settings.layer_types)
    strange = set(types) - {"full_attention", "sliding_attention"}
    if strange or len(types) != num_layers:
        raise NotLlamaLike(f"it has {len(types)} layer types for {num_layers} layers: {', '.join(sorted(set(types)))}")
    if window is None and "sliding_attention" in types:
        raise NotLlamaLike("it has sliding layers and no sliding window")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _read_layer(layer: Any) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
    gate_up = (mlp.gate_proj, mlp.up_proj)
    q_norm, k_norm = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return LayerWeights(
        input_norm=layer.input_layernorm.weight.detach(),
        qkv=_stack([linear.weight for linear in qkv]),
        qkv_bias=None if qkv[0].bias is None else _stack([linear.bias for linear in qkv]),
        q_norm=None if q_norm is None else q_norm.weight.detach(),
        k_norm=None if k_norm is None else k_norm.weight.detach(),
        o=_dense(attention.o_proj.weight),
        o_bias=_bias(attention.o_proj),
        post_norm=layer.post_attention_layernorm.weight.detach(),
        gate_up=_stack([linear.weight for linear in gate_up]),
        gate_up_bias=None if gate_up[0].bias is None else _stack([linear.bias for linear in gate_up]),
        down=_dense(mlp.down_proj.weight),
        down_bias=_bias(mlp.down_proj),
    )


def _stack(parameters: list[nn.Parameter]) -> torch.Tensor:
    """The parameters one below the other; they become views of it."""
    stacked = torch.cat([parameter.detach() for parameter in parameters])
    rows = stacked.split([parameter.shape[0] for parameter in parameters])
    for parameter, own in zip(parameters, rows, strict=True):
        parameter.data = own
    return stacked


def _dense(parameter: nn.Parameter) -> torch.Tensor:
    parameter.data = parameter.data.contiguous()
    return parameter.detach()


def _bias(linear: nn.Linear) -> torch.Tensor | None:
    return None if linear.bias is None else linear.bias.detach()
