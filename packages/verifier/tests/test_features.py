"""Hidden states: transformers' own, and with the same bits however a token was read."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from tiny_models import (
    FAMILIES,
    GREEDY,
    NEEDS_GPU,
    WINDOW,
    fill,
    make_model,
    make_runner,
    random_tokens,
    random_tree,
)

from paceline.verifier.model.batch import SessionPlan, StepPlan
from paceline.verifier.model.blocks import KVSlot
from paceline.verifier.model.features import Bits, Features, bits_of, take
from paceline.verifier.model.runner import Runner

LENGTH = 90
LAYERS = (2, 0, 1)  # not in order: what is asked for first comes first
LLAMA_LIKE = ("llama", "qwen3", "mistral")
ENGINES = [
    ("transformers", "cpu", tuple(FAMILIES), ()),
    ("native", "cpu", LLAMA_LIKE, ()),
    ("native_fma", "cpu", LLAMA_LIKE, ()),
    ("lean", "cpu", LLAMA_LIKE, ()),
    ("lean", "cuda", LLAMA_LIKE, (NEEDS_GPU,)),
]
# Of the states' root mean square. One rounding to bfloat16 is at most 2**-9 of a number; native rounds to bfloat16
# nothing but products' inputs, transformers everything.
FARTHEST = {torch.float32: 0.002, torch.bfloat16: 0.03}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, engine, dtype, device), marks=marks)
        for engine, device, names, marks in ENGINES
        for name in names
        for dtype in (torch.float32, torch.bfloat16)
        if (engine, dtype) != ("native_fma", torch.float32)  # float32 is multiplied in one way only
    ],
    ids=lambda kind: f"{kind[0]}-{kind[1]}-{str(kind[2]).removeprefix('torch.')}-{kind[3]}",
)
def family(request):
    """A runner, a text, and its hidden states as plain decoding of it brings them, one token a step."""
    runner = make_runner(*request.param)
    runner.kind = request.param
    tokens = random_tokens(LENGTH, seed=1)
    slot = runner.new_slot(LENGTH)
    plain = np.concatenate([step(runner, read(slot, [token]))[0].values for token in tokens])
    runner.pool.close(slot)
    return runner, tokens, plain


def read(slot: KVSlot, chain: list[int], tree: list[int] | None = None, parents: list[int] | None = None, **fields):
    """A part of a step that wants its features; `completes` unless told otherwise."""
    fields = {"completes": True, "want_features": True, **fields}
    return SessionPlan(
        slot, tuple(chain), tree_tokens=tuple(tree or ()), tree_parents=tuple(parents or ()), sampler=GREEDY, **fields
    )


def step(runner: Runner, *plans: SessionPlan, layers: tuple[int, ...] = LAYERS) -> list[Features]:
    """The sessions' features, which must begin where the cache ended."""
    starts = [plan.slot.length for plan in plans]
    outcomes = runner.step(StepPlan(plans, layers)).sessions
    for plan, start, outcome in zip(plans, starts, outcomes, strict=True):
        if plan.want_features:
            assert outcome.features.first == start
            assert outcome.features.end == start + len(plan.chain) + len(outcome.accepted)
            assert outcome.features.layers == layers
        else:
            assert outcome.features is None
    return [outcome.features for outcome in outcomes]


def wide(bits: Bits) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16).float()


@torch.inference_mode()
def own_states(name: str, dtype: torch.dtype, tokens: list[int], device: str = "cpu") -> torch.Tensor:
    """[tokens, layers, hidden] as transformers numbers them, but the last one from before the final norm."""
    model = make_model(name, dtype=dtype).to(device)
    model.set_attn_implementation("eager")
    kept: list[torch.Tensor] = []
    hook = model.model.norm.register_forward_pre_hook(lambda _module, given: kept.append(given[0]))
    states = model(torch.tensor([tokens], device=device), output_hidden_states=True, use_cache=False).hidden_states
    hook.remove()
    assert torch.equal(model.model.norm(kept[0]), states[-1])
    return torch.cat([*states[:-1], kept[0]]).transpose(0, 1).float().cpu()


def test_they_are_transformers_own_but_for_rounding(family):
    runner, tokens, plain = family
    name, _, dtype, device = runner.kind
    own = own_states(name, dtype, tokens, device)[:, LAYERS]
    got = wide(plain)
    assert got.shape == own.shape == (LENGTH, 3, 48)
    assert runner.feature_source.num_layers == 2
    assert runner.feature_source.hidden_size == 48
    assert torch.equal(got[:, 1], own[:, 1].bfloat16().float())  # nothing is computed of the embedding
    for place in range(3):
        size = own[:, place].square().mean().sqrt()
        apart = (got[:, place] - own[:, place]).square().mean().sqrt() / size
        assert apart < FARTHEST[dtype], (LAYERS[place], float(apart))
    assert not torch.equal(got[:, 0], got[:, 2])


@pytest.mark.parametrize("seed", range(2))
def test_a_prompt_in_any_chunks_brings_the_bits_of_plain_decoding(family, seed):
    runner, tokens, plain = family
    rng = random.Random(seed)
    slot = runner.new_slot(LENGTH)
    while slot.length < LENGTH:
        start = slot.length
        size = min(rng.choice((1, 2, 3, 17, 64, 512)), runner.max_session_rows, LENGTH - start)
        last = start + size == LENGTH
        (features,) = step(runner, read(slot, tokens[start : start + size], completes=last))
        assert np.array_equal(features.values, plain[start : start + size]), (start, size)
    runner.pool.close(slot)


@pytest.mark.parametrize("seed", range(2))
def test_accepted_candidates_bring_the_bits_of_plain_decoding_and_refused_ones_nothing(family, seed):
    """Beside a session that reads, and one that wants no features; what the target itself says is the text here."""
    runner, tokens, _ = family
    rng = random.Random(seed)
    prompt = tokens[: rng.randrange(20, 2 * WINDOW)]
    slot = fill(runner, prompt[:-1])
    text, plain = prompt[-1:], []
    for _ in range(14):
        outcome = runner.step(StepPlan((read(slot, text[-1:]),), LAYERS)).sessions[0]
        plain.append(outcome.features.values)
        text += outcome.tokens
    runner.pool.close(slot)
    expected = np.concatenate(plain)

    slot, other, silent = fill(runner, prompt[:-1]), runner.new_slot(LENGTH), fill(runner, tokens[:10])
    at = 0
    while at < 10:
        right = rng.randrange(5)
        tree, parents, _ = random_tree(text[at + 1 : at + 1 + right], rng.randrange(6), rng)
        chunk = tokens[other.length : other.length + rng.randrange(1, 9)]
        plans = [read(other, chunk, completes=False), read(slot, text[at : at + 1], tree, parents)]
        plans.insert(rng.randrange(3), read(silent, [7], [8, 9], [-1, 0], want_features=False))
        before = other.length
        features = [each for each in step(runner, *plans) if each is not None]
        assert np.array_equal(features[0].values, family[2][before : before + len(chunk)])
        assert len(features[1].values) >= 1 + right
        assert np.array_equal(features[1].values, expected[at:][: len(features[1].values)])
        at += len(features[1].values)
    for each in (slot, other, silent):
        runner.pool.close(each)


@pytest.mark.parametrize("layers", [(0,), (1,), (2,), (2, 2, 0), ()], ids=str)
def test_any_layers_are_captured_alone_and_again_whether_the_chain_completes_or_not(family, layers):
    runner, tokens, plain = family
    for completes in (False, True):
        slot = runner.new_slot(LENGTH)
        plan = StepPlan((read(slot, tokens[:19], completes=completes),), layers)
        features = runner.step(plan).sessions[0].features
        if not layers:
            assert features is None
        else:
            columns = [LAYERS.index(layer) for layer in layers]
            assert np.array_equal(features.values, plain[:19, columns])
        runner.pool.close(slot)


def test_capturing_changes_no_logits(family):
    runner, tokens, _ = family
    slot = fill(runner, tokens[:40])
    plan = read(slot, tokens[40:41], tokens[41:45], [-1, 0, 1, 1])
    logits = runner.score((plan,), 3).logits.clone()
    assert torch.equal(runner.score((plan,), 3, feature_layers=LAYERS).logits, logits)
    runner.pool.close(slot)


def test_a_device_without_room_for_capturing_fails_no_step(monkeypatch):
    runner = make_runner("llama", "lean")
    compute = runner._decoder.compute

    def short_of_memory(buffers, feature_layers=()):
        if feature_layers:
            raise torch.OutOfMemoryError("no room")
        return compute(buffers)

    slot = runner.new_slot(20)
    expected = runner.step(StepPlan((read(slot, [5, 6, 7]),), LAYERS)).sessions[0]
    slot.length = 0
    monkeypatch.setattr(runner._decoder, "compute", short_of_memory)
    for chain in ([5, 6, 7], list(expected.tokens)):
        outcome = runner.step(StepPlan((read(slot, chain),), LAYERS)).sessions[0]
        assert outcome.features is None
        assert len(outcome.tokens) == 1
    assert runner.feature_source is None


def test_bits_are_rounded_to_the_nearest_and_to_even():
    numbers = [1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 1.0 + 2**-8 + 2**-20, -0.0, float("inf"), 3.4e38]
    assert bits_of(torch.tensor(numbers)).tolist() == [0x3F80, 0x3F80, 0x3F82, 0x3F81, 0x8000, 0x7F80, 0x7F80]


def test_a_session_takes_its_chain_and_then_the_accepted_in_the_order_of_their_path():
    rows = np.arange(12, dtype=np.uint16).reshape(12, 1, 1)
    taken = take(rows, 3, 2, (1, 4))
    assert taken.flatten().tolist() == [3, 4, 6, 9]
    rows[:] = 0
    assert taken.any()  # it keeps nothing alive of the candidates beside them


def test_a_stretch_is_cut_by_positions():
    features = Features(10, (1,), np.arange(5, dtype=np.uint16).reshape(5, 1, 1))
    assert features.end == 15
    part = features.between(12, 14)
    assert (part.first, part.values.flatten().tolist()) == (12, [2, 3])
    assert (features.between(0, 99).first, features.between(0, 99).end) == (10, 15)
    for first, end in ((0, 5), (20, 30), (13, 13)):
        assert not len(features.between(first, end).values)
