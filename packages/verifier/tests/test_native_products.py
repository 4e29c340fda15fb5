"""The native decoder's two ways to multiply in bfloat16, and whether threads and others in the process matter to it."""

from __future__ import annotations

import pytest
import torch
from tiny_models import GREEDY, make_model, make_runner, plain_logits, random_tokens

from paceline.verifier.model.batch import SessionPlan
from paceline.verifier.model.extract import extract
from paceline.verifier.model.native_runner import NativeRunner
from paceline.verifier.model.runner import Runner
from paceline.verifier.native.build import load_library

LENGTH = 150
FAMILIES = ("llama", "qwen3", "mistral")


def runner_of(family: str, num_threads: int) -> Runner:
    runner = NativeRunner(load_library(), extract(make_model(family, dtype=torch.bfloat16)), num_threads)
    runner.allocate(100)
    return runner


def tree_logits(runner: Runner, tokens: list[int]) -> torch.Tensor:
    """Of a text that is read, and then a tree of 40 rows below it: chains of five, side by side."""
    slot = runner.new_slot(len(tokens))
    half = len(tokens) // 2
    runner.forward((SessionPlan(slot, tuple(tokens[:half]), True, (), (), GREEDY),))
    runner.commit(slot, half, ())
    nodes = tuple(tokens[:40])
    parents = tuple(-1 if index < 8 else index - 8 for index in range(40))
    plan = SessionPlan(slot, tuple(tokens[half:]), True, nodes, parents, GREEDY)
    return runner.forward((plan,)).clone()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_matrix_unit_is_as_exact_as_vectors_are(family):
    tokens = random_tokens(LENGTH, seed=3)
    exact = plain_logits(make_runner(family, "native", torch.float32), tokens)
    one, other = (
        plain_logits(make_runner(family, engine, torch.bfloat16), tokens) for engine in ("native", "native_fma")
    )
    # Weights, keys and values were rounded alike; what is left of a difference are keys that fell to the other side.
    assert (one - other).norm() <= 0.25 * (other - exact).norm()
    assert abs((one - exact).norm() / (other - exact).norm() - 1.0) < 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_any_number_of_threads_gives_the_same_bits(family):
    tokens = random_tokens(LENGTH, seed=4)
    alone, *others = (tree_logits(runner_of(family, threads), tokens) for threads in (1, 2, 3))
    for logits in others:
        assert torch.equal(logits, alone)


def test_whoever_computes_in_the_same_thread_between_two_steps_does_not_matter():
    tokens = random_tokens(LENGTH, seed=5)
    alone = plain_logits(runner_of("llama", 1), tokens)
    runner, matrix = runner_of("llama", 1), torch.randn(256, 256, dtype=torch.bfloat16)
    slot = runner.new_slot(LENGTH)
    for index, token in enumerate(tokens):
        before = matrix @ matrix  # oneDNN takes the same unit, and shapes it for itself
        assert torch.equal(runner.forward((SessionPlan(slot, (token,), True, (), (), GREEDY),))[0], alone[index])
        runner.commit(slot, 1, ())
        assert torch.equal(matrix @ matrix, before)


def test_the_way_that_is_taken_is_known():
    weights = extract(make_model("llama", dtype=torch.bfloat16))
    assert NativeRunner(load_library(), weights, 1, tiles=False).product == "fma"
    assert NativeRunner(load_library(), weights, 1).product in ("amx", "fma")
