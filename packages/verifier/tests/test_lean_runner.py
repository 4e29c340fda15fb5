"""What only the runner of the lean decoder does; what all runners do, it shows in test_runner."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest
import torch
from tiny_models import (
    DEVICES,
    GREEDY,
    LEAN_SHAPE,
    fill,
    make_model,
    make_runner,
    plain_logits,
    random_tokens,
    random_tree,
)

from paceline.verifier.__main__ import MAX_DISAGREEMENT, measure_runner
from paceline.verifier.cost import ROW_COUNTS
from paceline.verifier.model.batch import SessionPlan, StepPlan
from paceline.verifier.model.blocks import BLOCK_TOKENS
from paceline.verifier.model.decoder import DecoderWeights
from paceline.verifier.model.exactness import disagreement, probe, reference_logits
from paceline.verifier.model.extract import extract
from paceline.verifier.model.lean import LeanDecoder
from paceline.verifier.model.lean_runner import LeanRunner, parts
from paceline.verifier.model.paged import NUM_RESERVED
from paceline.verifier.sampling import Sampler, Sampling

LENGTH = 150
SAMPLINGS = [
    Sampling(),
    Sampling(0.8, seed=3),
    Sampling(1.2, top_k=20, seed=2**64 - 1),
    Sampling(0.9, top_p=0.8, min_p=0.02, seed=5),
]


@pytest.fixture(scope="module", params=DEVICES)
def device(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def family(device, request):
    """A runner, and for some random texts the logits of plain decoding."""
    runner = make_runner("llama", "lean", request.param, device, num_blocks=300)
    texts = [random_tokens(LENGTH, seed) for seed in (1, 2)]
    return runner, [(tokens, plain_logits(runner, tokens)) for tokens in texts]


def planned(slot, chain, path=(), sampler=GREEDY, num_junk=0, seed=0, **wishes) -> SessionPlan:
    tree, parents, _ = random_tree(list(path), num_junk, random.Random(seed))
    return SessionPlan(slot, tuple(chain), True, tuple(tree), tuple(parents), sampler, **wishes)


def test_sessions_of_all_kinds_get_the_picks_of_their_own_samplers_in_steps_of_any_size(family):
    runner, texts = family
    starts = (3, 40, 64, 65, 100, 127, 128)  # more sessions than the shape has, and more rows
    plans, expected = [], []
    for number, start in enumerate(starts):
        tokens, plain = texts[number % 2]
        sampler = Sampler(SAMPLINGS[number % len(SAMPLINGS)])
        expected.append(sampler.pick(plain[start].cpu(), start + 1))
        path = tokens[start + 1 : start + 5] if number % 2 else [expected[-1]]
        slot = fill(runner, tokens[:start])
        plans.append(planned(slot, tokens[start : start + 1], path, sampler, 9, number))
    assert len(parts(plans, LEAN_SHAPE)) > 2
    result = runner.step(StepPlan(tuple(plans)))
    assert [session.tokens[0] for session in result.sessions] == expected
    assert all(session.accepted for session in result.sessions[::2])
    for plan, start, session in zip(plans, starts, result.sessions, strict=True):
        assert plan.slot.length == start + 1 + len(session.accepted)
        runner.pool.close(plan.slot)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled", "top k", "top and min p"])
def test_speculation_and_company_change_nothing_and_prompts_are_read_beside(family, sampling):
    runner, texts = family
    sampler = Sampler(sampling)
    prompt, other = texts[0][0][:70], texts[1][0]

    def generate(candidates: list[int], beside: bool) -> list[int]:
        slot, reader = fill(runner, prompt[:-1]), runner.new_slot(LENGTH)
        text, rng = [prompt[-1]], random.Random(7)
        while len(text) <= 40:
            path = candidates[len(text) - 1 :][: rng.choice((0, 3, 6))]
            plans = [planned(slot, text[-1:], path, sampler, rng.choice((0, 5)), len(text))]
            if beside and reader.length < 130:
                stretch = tuple(other[reader.length :][: rng.choice((1, 13, 21))])
                plans.insert(rng.randrange(2), SessionPlan(reader, stretch, False, (), (), GREEDY))
            outcome = runner.step(StepPlan(tuple(plans)))
            text += next(session.tokens for session in outcome.sessions if session.tokens)
        runner.pool.close(slot)
        runner.pool.close(reader)
        return text[1:41]

    plain = generate([], beside=False)
    assert generate(plain, beside=False) == plain
    assert generate(plain, beside=True) == plain


def test_log_probabilities_come_for_those_who_want_them(family):
    runner, texts = family
    (tokens, plain), (other, other_plain) = texts
    slots = [fill(runner, tokens[:50]), fill(runner, other[:30])]
    outcome = runner.step(
        StepPlan(
            (
                planned(slots[0], tokens[50:51], top_k=4, want_log_probs=True),
                planned(slots[1], other[30:31], other[31:33], top_k=2),
            )
        )
    )
    wanting, plainly = (session.top for session in outcome.sessions)
    expected = torch.log_softmax(plain[50].float().cpu(), dim=-1).topk(4).values
    assert torch.allclose(torch.tensor(wanting.log_probs[0]), expected, atol=1e-5)
    assert [len(row) for row in plainly.ids] == [2, 2, 2]
    assert [row[0] for row in plainly.ids] == other_plain[30:33].argmax(dim=-1).tolist()
    assert plainly.log_probs == []
    for slot in slots:
        runner.pool.close(slot)


def test_a_shared_prefix_gives_the_bits_that_reading_it_gives(family):
    runner, texts = family
    tokens, plain = texts[0]
    first = fill(runner, tokens[:140])
    runner.pool.remember(first, tokens[:140])
    second = runner.pool.open("", tokens)
    assert second.length == 2 * BLOCK_TOKENS
    assert second.blocks == first.blocks[:2]
    assert runner.pool.reserve(second, LENGTH + runner.max_session_rows)
    runner.pool.close(first)  # what it shares stays
    logits = runner.forward((planned(second, tokens[128:130], tokens[130:140], num_junk=5),))
    assert torch.equal(logits[0], plain[129])
    runner.commit(second, 2, ())
    assert torch.equal(runner.forward((planned(second, tokens[130:140]),))[0], plain[139])
    runner.pool.close(second)


def test_what_others_left_in_blocks_and_what_was_never_written_is_never_read(family):
    runner, texts = family
    tokens, plain = texts[0]
    held = runner.pool.num_held
    runner._decoder.cache.stored[:, NUM_RESERVED:] = float("nan")
    for _ in range(2):  # the second time in blocks of another, as after a displacement
        slot = fill(runner, tokens[:100])
        assert torch.equal(runner.forward((planned(slot, tokens[100:101]),))[0], plain[100])
        runner.pool.close(slot)
        other = fill(runner, texts[1][0][:70])
        runner.pool.close(other)
    assert runner.pool.num_held == held


def test_logits_stay_what_they_were_when_the_next_step_runs(family):
    runner, texts = family
    tokens, plain = texts[0]
    slot = runner.new_slot(4)
    logits = []
    for token in tokens[:4]:
        logits.append(runner.forward((planned(slot, [token]),))[0])
        runner.commit(slot, 1, ())
    assert torch.equal(torch.stack(logits), plain[:4])
    runner.pool.close(slot)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_the_verifier_asks_at_start_is_answered_and_the_usual_shape_is_exact(device, dtype):
    model = make_model("qwen3", dtype=dtype).to(device)
    reference = reference_logits(model)
    runner = LeanRunner(extract(model))
    runner.allocate(4, BLOCK_TOKENS)  # the least that the verifier starts with
    assert disagreement(runner, reference) < MAX_DISAGREEMENT
    assert probe(runner) == 0.0
    cost = measure_runner(runner)
    assert cost.rows == ROW_COUNTS
    assert all(seconds > 0 for seconds in cost.knots)
    assert runner.pool.num_held == 0


def test_sessions_are_cut_in_their_order_into_parts_that_fit():
    plans = [planned(None, [5] * rows) for rows in (21, 21, 21, 1, 20, 21, 21, 21, 1)]
    cut = parts(plans, LEAN_SHAPE)
    assert [[plan.num_rows for plan in part] for part in cut] == [[21, 21, 21], [1, 20, 21], [21, 21, 1]]
    assert [plan for part in cut for plan in part] == plans
    assert parts([planned(None, [5]) for _ in range(4)], LEAN_SHAPE)[1:] == [(planned(None, [5]),)]
    assert parts([], LEAN_SHAPE) == []


def test_more_than_a_pass_can_take_is_refused_where_it_can_not_be_cut(family):
    runner, _ = family
    slot = runner.new_slot(1)
    with pytest.raises(ValueError, match="22 rows of one session, and the step's shape has room for 21"):
        runner.step(StepPlan((planned(slot, [5] * 22),)))
    with pytest.raises(ValueError, match="4 sessions, and the step's shape has room for 3"):
        runner.score([planned(slot, [5])] * 4, 1)
    runner.pool.close(slot)


def test_a_gpu_without_room_for_the_graphs_says_what_to_lower(monkeypatch):
    def full(*_arguments):
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(LeanDecoder, "warm_up", full)
    with pytest.raises(MemoryError, match="256 tokens and for attending over 200; lower --kv-memory-mb or --context"):
        LeanRunner(extract(make_model("llama"))).allocate(4, 200)


def test_the_probe_finds_a_device_on_which_a_row_s_place_in_the_step_matters(monkeypatch):
    plain = LeanDecoder.compute

    def uneven(decoder, step, feature_layers=()):
        computed = plain(decoder, step, feature_layers)
        computed.logits[30:] += 1e-3
        return computed

    runner = LeanRunner(extract(make_model("llama")))
    runner.allocate(6)
    monkeypatch.setattr(LeanDecoder, "compute", uneven)
    assert probe(runner) > 5e-4


def test_a_step_waits_for_the_device_once_and_reads_one_copy_back_if_anything(monkeypatch):
    """On torch's device `meta`, from which nothing can be read at all."""
    copies, waits = [], []

    def cpu(tensor):
        copies.append(tensor)
        return torch.zeros(tensor.shape, dtype=tensor.dtype)

    runner = LeanRunner(_moved(extract(make_model("qwen3", dtype=torch.bfloat16)), "meta"))
    runner.allocate(12)
    monkeypatch.setattr(torch.Tensor, "cpu", cpu)
    plans = [
        planned(runner.new_slot(4), [5], [6, 7], Sampler(sampling), 3, top_k=3, want_log_probs=True)
        for sampling in SAMPLINGS
    ]
    runner.step(StepPlan(tuple(plans)))
    monkeypatch.setattr(LeanRunner, "_wait", lambda runner: waits.append(runner))
    runner.step(StepPlan((SessionPlan(runner.new_slot(4), (5, 6), False, (), (), GREEDY),)))
    assert waits == [runner]
    assert [(tuple(table.shape), table.device.type) for table in copies] == [((4 * 6, 2 + 3 + 3), "meta")]


def _moved(weights: DecoderWeights, device: str) -> DecoderWeights:
    def moved(part: Any) -> Any:
        tensors = {
            field.name: getattr(part, field.name).to(device)
            for field in dataclasses.fields(part)
            if isinstance(getattr(part, field.name), torch.Tensor)
        }
        return dataclasses.replace(part, **tensors)

    return dataclasses.replace(moved(weights), layers=tuple(moved(layer) for layer in weights.layers))
