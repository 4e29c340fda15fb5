"""What a loading process hands over: everything arrives as it was, and the memory goes when nobody uses it."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from tiny_decoders import KINDS, make_decoder
from tiny_models import make_tokenizer

from paceline.verifier.model.decoder import DecoderWeights
from paceline.verifier.model.extract import extract
from paceline.verifier.model.handover import Handover, read, write
from paceline.verifier.model.target import Target
from paceline.verifier.model.tokenizer import TargetTokenizer

NAME = "paceline-test-weights"


def handed_over(handover: Handover) -> Handover:
    """Through memory and JSON, as between two processes."""
    descriptor = os.memfd_create(NAME)
    try:
        with open(descriptor, "wb", closefd=False) as memory:
            told = json.dumps(write(handover, memory))
        return read(json.loads(told), descriptor)
    finally:
        os.close(descriptor)


def handover_of(kind: str, dtype: torch.dtype = torch.float32) -> Handover:
    target = Target("name", TargetTokenizer(make_tokenizer()), 77, frozenset({1, 5}), 9, "Some", "float32", "cpu")
    return Handover(target, extract(make_decoder(kind).to(dtype)), torch.randn(12, 320))


def tensors(weights: DecoderWeights) -> list[torch.Tensor | None]:
    whole = [weights.inv_freq, weights.embedding, weights.final_norm, weights.head, weights.head_bias]
    return whole + [getattr(layer, field.name) for layer in weights.layers for field in fields(layer)]


def is_mapped() -> bool:
    return NAME in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_weights_arrive_to_the_bit(kind, dtype):
    sent = handover_of(kind, dtype)
    arrived = handed_over(sent)
    assert arrived.weights.config == sent.weights.config
    for here, there in zip(tensors(arrived.weights), tensors(sent.weights), strict=True):
        if there is None:
            assert here is None
        else:
            assert here.dtype == there.dtype
            assert torch.equal(here, there)
    tied = sent.weights.head is sent.weights.embedding
    assert (arrived.weights.head is arrived.weights.embedding) == tied
    assert torch.equal(arrived.reference, sent.reference)


def test_what_is_known_of_the_target_arrives_with_its_tokenizer():
    sent = handover_of("llama").target
    arrived = handed_over(handover_of("llama")).target
    assert replace(arrived, tokenizer=sent.tokenizer) == sent
    assert arrived.tokenizer.content_hash == sent.tokenizer.content_hash
    assert arrived.tokenizer.files == sent.tokenizer.files
    text = "Füchse: to be, or not? <|user|>\U0001f98a"
    ids = sent.tokenizer.tokenize(text)
    assert arrived.tokenizer.tokenize(text) == ids
    assert arrived.tokenizer.tokenizer.decode(ids, skip_special_tokens=True) == sent.tokenizer.tokenizer.decode(
        ids, skip_special_tokens=True
    )
    chat = [{"role": "user", "content": text}]
    assert arrived.tokenizer.apply_chat_template(chat) == sent.tokenizer.apply_chat_template(chat)


def test_the_memory_is_free_when_the_weights_are_dropped():
    arrived = handed_over(handover_of("llama"))
    assert is_mapped()
    target, reference = arrived.target, arrived.reference
    del arrived
    assert not is_mapped()
    assert reference.shape == (12, 320)
    assert target.tokenizer.files
