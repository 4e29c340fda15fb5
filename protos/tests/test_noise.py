from __future__ import annotations

import json
import math
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.wire import noise

VECTORS = json.loads((resources.files("paceline.wire") / "vectors" / "noise.json").read_text())
SEEDS = st.integers(0, 2**64 - 1)
POSITIONS = st.integers(0, 2**31)


def test_the_integers_are_those_of_the_contract() -> None:
    assert len(VECTORS) > 50
    for row in VECTORS:
        bits = noise.uniform_bits(int(row["seed"]), row["position"], np.array([row["id"]]))
        assert f"{int(bits[0]):016x}" == row["bits"]


@given(SEEDS, POSITIONS, st.lists(st.integers(0, 2**20), min_size=1, max_size=20))
def test_an_id_gets_the_same_noise_in_any_company(seed: int, position: int, ids: list[int]) -> None:
    together = noise.gumbel(seed, position, np.array(ids))
    alone = [noise.gumbel(seed, position, np.array([token]))[0] for token in ids]
    assert together.tolist() == alone


@given(SEEDS, POSITIONS)
def test_noise_is_finite(seed: int, position: int) -> None:
    values = noise.gumbel(seed, position, np.arange(512))
    assert np.isfinite(values).all()
    assert values.min() > -3.7
    assert values.max() < 36.8


@pytest.mark.parametrize("bits", [0, 2**64 - 1])
def test_the_extreme_bits_give_finite_noise(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "uniform_bits", lambda *_arguments: np.array([bits], dtype=np.uint64))
    assert math.isfinite(noise.gumbel(0, 0, np.array([0]))[0])


def test_noise_is_standard_gumbel() -> None:
    values = noise.gumbel(7, 3, np.arange(200_000))
    assert values.mean() == pytest.approx(0.57722, abs=0.01)
    assert values.var() == pytest.approx(math.pi**2 / 6, abs=0.03)


def test_every_bit_is_fair_over_seeds_positions_and_ids() -> None:
    draws = np.concatenate(
        [noise.uniform_bits(seed, position, np.arange(64)) for seed in range(20) for position in range(20)]
    )
    for bit in range(64):
        share = float(((draws >> np.uint64(bit)) & np.uint64(1)).mean())
        assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(len(draws))


def test_argmax_draws_from_the_softmax() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.15, 0.07, 0.03]))
    num_draws = 20_000
    drawn = [int(np.argmax(logits + noise.gumbel(seed, 11, np.arange(5)))) for seed in range(num_draws)]
    counts = np.bincount(drawn, minlength=5)
    expected = np.exp(logits) * num_draws
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 18.5  # 99.9% of 4 degrees of freedom
