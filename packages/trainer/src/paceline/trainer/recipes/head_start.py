"""What a feature head starts from: the embeddings of the target's commonest tokens, and its last layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paceline.trainer.data.rows import Answer
from paceline.trainer.data.target import Target
from paceline.trainer.models.block import BlockShape
from paceline.trainer.models.feature_head import FeatureHead, FeatureHeadShape
from paceline.trainer.training.head_task import Teacher

PROMPT_SHARE = 0.2
Vocabulary = npt.NDArray[np.uint32]  # the target's id of each of the head's


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSize:
    """What of a head's size is free: the rest is the target's.

    Attributes:
        vocab_size: tokens it knows.
        intermediate: width of its MLP, at most the target's.
    """

    vocab_size: int = 8192
    intermediate: int = 1024


def common_tokens(answers: Iterable[Answer], target: Target, size: int) -> Vocabulary:
    """The commonest tokens, those that end an answer among them, the commonest first. A token of an answer counts for
    as much as five of a prompt, which say what people write about."""
    counts = np.zeros(target.vocab_size)
    for answer in answers:
        np.add.at(counts, answer.answer_ids, 1.0)
        np.add.at(counts, answer.prompt_ids, PROMPT_SHARE)
    counts[sorted(target.eos_token_ids)] = np.inf
    return np.argsort(-counts, kind="stable")[:size].astype(np.uint32)


def head_shape(target: Target, num_features: int, vocab_size: int, intermediate: int) -> FeatureHeadShape:
    """The target's own shapes, as far as they are not chosen."""
    config = target.model.config.get_text_config()
    block = BlockShape(
        width=target.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=getattr(config, "head_dim", None) or target.hidden_size // config.num_attention_heads,
        intermediate=intermediate,
        rope_theta=config.rope_parameters["rope_theta"],
        norm_epsilon=config.rms_norm_eps,
    )
    return FeatureHeadShape(
        vocab_size=vocab_size, target_hidden_size=target.hidden_size, num_features=num_features, block=block
    )


def make_teacher(target: Target, vocabulary: Vocabulary) -> Teacher:
    """The target's own view of its last layer's features, for a head's vocabulary."""
    norm = target.model.get_decoder().norm
    rows = torch.from_numpy(vocabulary.astype(np.int64))
    return Teacher(target.head[rows].float().clone(), norm.weight.float().clone(), norm.variance_epsilon)


@torch.no_grad()
def start_head(head: FeatureHead, target: Target, vocabulary: Vocabulary) -> None:
    """Gives a head the target's embeddings, last norm and last layer, as much of its MLP as fits.

    Its hidden state begins as the last layer's feature, and what its block reads as the sum of both inputs.
    """
    shape = head.shape
    width = shape.block.width
    rows = torch.from_numpy(vocabulary.astype(np.int64))
    embedding = target.embedding.float()
    head.embed_tokens.weight[:-1] = embedding[rows]
    head.embed_tokens.weight[-1] = embedding.mean(0)
    decoder = target.model.get_decoder()
    head.norm.weight.copy_(decoder.norm.weight)
    last = decoder.layers[-1]
    for name, parameter in head.block.named_parameters():
        parameter.copy_(_fitting(last.get_parameter(name).float(), _strongest(last, shape.block.intermediate), name))
    torch.nn.init.normal_(head.fuse_proj.weight, std=0.2 * head.fuse_proj.in_features**-0.5)
    head.fuse_proj.weight[:, -width:] += torch.eye(width)
    torch.nn.init.normal_(head.mix_proj.weight, std=0.2 * width**-0.5)
    head.mix_proj.weight += torch.cat((torch.eye(width), torch.eye(width)), dim=1)


def _strongest(layer: torch.nn.Module, count: int) -> Tensor:
    """The MLP's neurons that write most for what they read."""
    mlp = layer.mlp
    weights = mlp.down_proj.weight.float().norm(dim=0) * mlp.up_proj.weight.float().norm(dim=1)
    return weights.topk(count).indices.sort().values


def _fitting(weight: Tensor, neurons: Tensor, name: str) -> Tensor:
    """A parameter of the target's layer, cut to some of its MLP's neurons."""
    if name.startswith(("mlp.gate_proj", "mlp.up_proj")):
        return weight[neurons]
    return weight[:, neurons] if name.startswith("mlp.down_proj") else weight
