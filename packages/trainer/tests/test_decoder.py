"""The small decoder: what a token's hidden state depends on, and on what not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.trainer.models.decoder import Decoder, DecoderShape

SHAPE = DecoderShape(
    vocab_size=50, width=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, intermediate=48, max_length=64
)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    made = Decoder(SHAPE, seed=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(8 if parameter.ndim == 2 else 1)  # so that attention isn't nearly uniform
    return made.eval()


def _ids(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(SHAPE.vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def test_a_seed_gives_the_same_weights_whatever_was_drawn_before() -> None:
    first = Decoder(SHAPE, seed=1).state_dict()
    torch.rand(5)
    again, other = Decoder(SHAPE, seed=1).state_dict(), Decoder(SHAPE, seed=2).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embed_tokens.weight"], other["embed_tokens.weight"])


def test_names_are_those_of_llama() -> None:
    """transformers' own Llama with these weights computes the same."""
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=SHAPE.vocab_size,
        hidden_size=SHAPE.width,
        num_hidden_layers=SHAPE.num_layers,
        num_attention_heads=SHAPE.num_heads,
        num_key_value_heads=SHAPE.num_kv_heads,
        head_dim=SHAPE.head_dim,
        intermediate_size=SHAPE.intermediate,
        rms_norm_eps=SHAPE.rms_eps,
        rope_parameters={"rope_type": "default", "rope_theta": SHAPE.rope_theta},
    )
    llama, ours = LlamaModel(config).eval(), Decoder(SHAPE, seed=4)
    llama.load_state_dict(ours.state_dict())
    ids = _ids(1, 2, 9)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), llama(ids).last_hidden_state, atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(length=st.integers(1, 12), seed=st.integers(0, 1000))
def test_no_mask_is_a_causal_mask(decoder: Decoder, length: int, seed: int) -> None:
    ids = _ids(seed, 2, length)
    mask = torch.ones(length, length, dtype=torch.bool).tril().expand(2, -1, -1)
    with torch.no_grad():
        torch.testing.assert_close(decoder(ids), decoder(ids, mask=mask), atol=1e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_steps_give_what_the_whole_text_gives(decoder: Decoder, lengths: list[int], seed: int) -> None:
    ids = _ids(seed, 2, sum(lengths))
    past, found, done = decoder.empty_past(2), [], 0
    with torch.no_grad():
        for length in lengths:
            end = done + length
            visible = torch.ones(length, end, dtype=torch.bool).tril(done).expand(2, -1, -1)
            positions = torch.arange(done, end).expand(2, -1)
            hidden, new = decoder.step(ids[:, done:end], positions, visible, past)
            past = [(torch.cat((k, a), 1), torch.cat((v, b), 1)) for (k, v), (a, b) in zip(past, new, strict=True)]
            found.append(hidden)
            done = end
        torch.testing.assert_close(torch.cat(found, dim=1), decoder(ids), atol=1e-5, rtol=1e-5)


def test_a_row_is_moved_by_what_it_sees_and_by_nothing_else(decoder: Decoder) -> None:
    ids = _ids(5, 1, 6)
    other = ids.clone()
    other[0, 3] = (other[0, 3] + 1) % SHAPE.vocab_size
    with torch.no_grad():
        moved = (decoder(ids) - decoder(other)).abs().amax(-1)[0]
    assert (moved[:3] == 0).all()
    assert (moved[3:] > 1e-4).all()


@pytest.mark.parametrize(("tied", "unknown"), [(True, False), (True, True), (False, True)])
def test_the_head_has_a_row_for_each_logit(tied: bool, unknown: bool) -> None:
    decoder = Decoder(dataclasses.replace(SHAPE, tied=tied, unknown=unknown))
    assert decoder.head_weight.shape == (SHAPE.vocab_size, SHAPE.width)
    shares = decoder.head_weight.data_ptr() == decoder.embed_tokens.weight.data_ptr()
    assert shares == tied
    assert decoder.embed_tokens.num_embeddings == SHAPE.vocab_size + unknown
    decoder(torch.full((1, 2), decoder.embed_tokens.num_embeddings - 1)).sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for n, p in decoder.named_parameters() if "lm_head" not in n
    )
