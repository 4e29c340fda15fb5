"""The lean decoder as CUDA graphs, where there is a GPU: the same claims as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lean_steps import LENGTH, SHAPE, Lean, check_neighbours, check_trees, make_lean, read
from tiny_decoders import make_decoder, own_logits
from tiny_models import NEEDS_GPU, VOCAB, random_tokens

from paceline.verifier import sampling
from paceline.verifier.sampling import Sampler, Sampling
from paceline.verifier.sampling_device import gumbel, pick_rows, stream_keys, uniform_bits
from paceline.wire import noise

pytestmark = NEEDS_GPU

CUDA = torch.device("cuda")


@pytest.fixture(
    scope="module",
    params=[(kind, dtype) for kind in ("llama", "qwen3 sliding") for dtype in (torch.float32, torch.bfloat16)],
    ids=str,
)
def decoder(request):
    """A decoder, and for two random texts the logits of plain decoding."""
    kind, dtype = request.param
    lean = make_lean(kind, "cuda", dtype)
    lean.warm_up([SHAPE])
    texts = [random_tokens(LENGTH, seed) for seed in (1, 2)]
    return lean, [(tokens, read(lean, tokens, 1)) for tokens in texts]


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2 sliding", "qwen3"])
def test_agrees_with_transformers(kind):
    model = make_decoder(kind).to(CUDA)
    tokens = random_tokens(LENGTH, seed=1)
    expected = own_logits(model.cpu(), tokens)
    lean = Lean(model.to(CUDA), num_blocks=5, max_tokens=LENGTH)
    assert (read(lean, tokens, 14).cpu() - expected).abs().max() < 2e-4


@pytest.mark.parametrize("seed", range(3))
def test_trees_with_junk_branches_give_the_bits_of_plain_decoding(decoder, seed):
    lean, texts = decoder
    check_trees(lean, texts[0], seed)


def test_reading_in_chunks_and_beside_others_gives_the_bits_of_plain_decoding(decoder):
    lean, texts = decoder
    assert torch.equal(read(lean, texts[0][0], 14), texts[0][1])
    check_neighbours(lean, texts)


def test_the_noise_is_that_of_the_wire():
    keys = stream_keys([3, 2**64 - 1], [0, 10**6]).to(CUDA)
    bits, values = uniform_bits(keys, 50_000).cpu(), gumbel(keys, 50_000).cpu()
    for row, (seed, position) in enumerate([(3, 0), (2**64 - 1, 10**6)]):
        assert np.array_equal(bits[row].numpy().view(np.uint64), noise.uniform_bits(seed, position, np.arange(50_000)))
        reference = sampling.gumbel(seed, position, 50_000, torch.device("cpu"))
        assert torch.allclose(values[row], reference, rtol=2e-7, atol=1e-7)


def test_picks_are_those_of_the_samplers():
    kinds = [Sampling(), Sampling(0.7, seed=1), Sampling(0.9, top_k=5, seed=4), Sampling(1.0, top_p=0.8, seed=6)]
    for position in range(40):
        logits = torch.randn(len(kinds), VOCAB, generator=torch.Generator().manual_seed(position)) * 3
        picks = pick_rows(logits.to(CUDA), kinds, [position] * len(kinds)).tolist()
        assert picks == [Sampler(kind).pick(row, position) for kind, row in zip(kinds, logits, strict=True)]
