"""Picking on the device: the noise of the contract, and the picks of `Sampler`."""

from __future__ import annotations

import json
from importlib import resources

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.verifier import sampling
from paceline.verifier.grammar.mask import packed
from paceline.verifier.sampling import Sampler, Sampling
from paceline.verifier.sampling_device import gumbel, pick_rows, stream_keys, uniform_bits
from paceline.wire import noise

VECTORS = json.loads((resources.files("paceline.wire") / "vectors" / "noise.json").read_text())
CPU = torch.device("cpu")


def test_the_integers_are_those_of_the_contract():
    assert len(VECTORS) > 50
    size = 1 + max(row["id"] for row in VECTORS)
    pairs = sorted({(int(row["seed"]), row["position"]) for row in VECTORS})
    bits = {}
    for seed, position in pairs:
        bits[seed, position] = uniform_bits(stream_keys([seed], [position]), size)[0].numpy().view(np.uint64)
    for row in VECTORS:
        assert f"{int(bits[int(row['seed']), row['position']][row['id']]):016x}" == row["bits"]


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**31)), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_all_bits_and_the_noise_are_those_of_the_wire(pairs):
    seeds, positions = zip(*pairs, strict=True)
    keys = stream_keys(seeds, positions)
    bits, values = uniform_bits(keys, 500), gumbel(keys, 500)
    assert values.dtype == torch.float32
    for row, (seed, position) in enumerate(pairs):
        expected = noise.uniform_bits(seed, position, np.arange(500))
        assert np.array_equal(bits[row].numpy().view(np.uint64), expected)
        # Logarithms may differ in the last place of float64, which float32 nearly always forgets.
        reference = sampling.gumbel(seed, position, 500, CPU)
        assert torch.allclose(values[row], reference, rtol=2e-7, atol=1e-7)
        assert (values[row] == reference).float().mean() > 0.99


SAMPLINGS = [
    Sampling(),
    Sampling(0.7, seed=1),
    Sampling(1.3, seed=2**64 - 1),
    Sampling(0.9, top_k=5, seed=4),
    Sampling(1e-9, seed=5),
    Sampling(1.0, top_p=0.8, min_p=0.05, seed=6),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_of_any_kinds_together_get_the_picks_of_their_samplers(dtype):
    generator = torch.Generator().manual_seed(0)
    for position in range(40):
        logits = (torch.randn(len(SAMPLINGS), 1000, generator=generator) * 3).to(dtype)
        positions = [position + 10 * row for row in range(len(SAMPLINGS))]
        picks = pick_rows(logits, SAMPLINGS, positions).tolist()
        expected = [Sampler(SAMPLINGS[row]).pick(logits[row], positions[row]) for row in range(len(SAMPLINGS))]
        assert picks == expected


def test_ties_go_to_the_lowest_id():
    logits = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])
    assert pick_rows(logits, [Sampling(), Sampling()], [0, 0]).tolist() == [1, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_with_masks_get_the_picks_of_their_samplers_and_the_others_are_as_before(dtype):
    rng = np.random.default_rng(1)
    generator = torch.Generator().manual_seed(0)
    for position in range(20):
        logits = (torch.randn(len(SAMPLINGS), 1000, generator=generator) * 3).to(dtype)
        before, positions = logits.clone(), [position] * len(SAMPLINGS)
        masks = {row: packed(rng.choice(1000, size=1 + row, replace=False).tolist(), 1000) for row in (0, 1, 3, 5)}
        picks = pick_rows(logits, SAMPLINGS, positions, masks).tolist()
        pairs = zip(SAMPLINGS, logits, strict=True)
        assert picks == [Sampler(kind).pick(row, position, masks.get(index)) for index, (kind, row) in enumerate(pairs)]
        assert torch.equal(logits, before)
