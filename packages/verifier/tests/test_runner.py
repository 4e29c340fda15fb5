"""The whole model: logits have the same bits however the tokens are grouped into steps."""

from __future__ import annotations

import random

import pytest
import torch
from tiny_models import (
    FAMILIES,
    GREEDY,
    NEEDS_GPU,
    VOCAB,
    fill,
    make_model,
    make_runner,
    plain_logits,
    random_tokens,
    random_tree,
)
from transformers import AutoModelForCausalLM, GptOssConfig

from paceline.verifier.__main__ import MAX_DISAGREEMENT
from paceline.verifier.model.attention import BLOCK, MAX_SESSION_ROWS
from paceline.verifier.model.batch import SessionPlan, StepPlan
from paceline.verifier.model.exactness import disagreement, probe, reference_logits
from paceline.verifier.model.linear import MIN_ROWS, PackedLinear
from paceline.verifier.model.runner import Runner
from paceline.verifier.model.transformers_runner import TransformersRunner
from paceline.verifier.sampling import Sampler, Sampling

LENGTH = 290
SEEDS = (1, 2, 3)


LLAMA_LIKE = ("llama", "qwen3", "mistral")
ENGINES = [
    ("transformers", "cpu", tuple(FAMILIES), ()),
    ("native", "cpu", LLAMA_LIKE, ()),
    ("native_fma", "cpu", LLAMA_LIKE, ()),
    ("lean", "cpu", LLAMA_LIKE, ()),
    ("lean", "cuda", LLAMA_LIKE, (NEEDS_GPU,)),
]


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
    """A runner, and for some random texts the logits of plain decoding."""
    runner = make_runner(*request.param)
    runner.kind = request.param
    texts = [random_tokens(LENGTH, seed) for seed in SEEDS]
    return runner, [(tokens, plain_logits(runner, tokens)) for tokens in texts]


def test_agrees_with_transformers_own_attention(family):
    runner, texts = family
    tokens, plain = texts[0]
    name, _, dtype, device = runner.kind
    model = make_model(name, dtype=dtype).to(device)
    model.set_attn_implementation("eager")
    reference = model(torch.tensor([tokens], device=device)).logits[0]
    if dtype == torch.float32:
        assert (plain - reference).abs().max() < (1e-4 if device == "cpu" else 2e-4)
        assert disagreement(runner, reference_logits(model)) < 1e-5
    else:  # transformers rounds to bfloat16 after each operation; these wide models make much of it
        assert disagreement(runner, reference_logits(model)) < MAX_DISAGREEMENT
        assert disagreement(runner, reference_logits(model.float())) < 0.02
    # The models are no pushovers: what came long ago matters, and not every context has the same answer.
    assert len(set(plain.argmax(dim=-1).tolist())) > LENGTH / 10


def test_the_probe_that_runs_at_start_finds_no_difference(family):
    assert probe(family[0]) == 0.0


def test_the_best_tokens_are_those_of_the_greatest_logits(family):
    runner, texts = family
    tokens, _ = texts[0]
    slot = fill(runner, tokens[:40])
    plan = SessionPlan(slot, (tokens[40],), True, tuple(tokens[41:49]), tuple(range(-1, 7)), GREEDY)
    scores = runner.score((plan,), 5)
    assert [row[0] for row in scores.best] == scores.logits.argmax(dim=-1).tolist()
    assert runner.score((plan,), 5, best_only=True).best == scores.best
    values = torch.gather(scores.logits, 1, torch.tensor(scores.best, device=scores.logits.device))
    assert torch.equal(values, torch.topk(scores.logits, 5, dim=-1).values)
    if runner.kind[1].startswith("native"):  # of equal ones the lowest id comes first
        pairs = [
            sorted(range(VOCAB), key=lambda token, row=row: (-float(row[token]), token))[:5] for row in scores.logits
        ]
        assert scores.best == pairs
    runner.pool.close(slot)


@pytest.mark.parametrize("seed", range(4))
def test_reading_a_prompt_in_any_chunks_gives_the_bits_of_plain_decoding(family, seed):
    runner, texts = family
    tokens, plain = texts[0]
    rng = random.Random(seed)
    slot = runner.new_slot(LENGTH)
    while slot.length < LENGTH:
        start = slot.length
        size = min(rng.choice((1, 2, 3, 5, 17, 64, MAX_SESSION_ROWS)), runner.max_session_rows)
        chunk = tuple(tokens[start : start + size])
        logits = runner.forward((SessionPlan(slot, chunk, True, (), (), GREEDY),))
        assert torch.equal(logits[0], plain[start + len(chunk) - 1]), (start, len(chunk))
        runner.commit(slot, len(chunk), ())


def advance(runner: Runner, rng: random.Random, sessions: list, num_steps: int) -> None:
    """Steps of several sessions at once, each with a random stretch or tree of its known text; compares every row."""
    for _ in range(num_steps):
        plans, checks, commits = [], [], []
        for slot, (tokens, plain) in sessions:
            left = LENGTH - slot.length
            if left < 1 or rng.random() < 0.1:
                continue
            most = min(54, runner.max_session_rows)
            chain = min(left, rng.choice((1, 1, 1, 1, 2, 30)), most)
            path = tokens[slot.length + chain :][: min(rng.choice((0, 1, 4, 9)), most - chain)]
            tree, parents, on_path = random_tree(path, min(rng.choice((0, 3, 15)), most - chain - len(path)), rng)
            first = tuple(tokens[slot.length : slot.length + chain])
            plans.append(SessionPlan(slot, first, True, tuple(tree), tuple(parents), GREEDY))
            base = slot.length + chain - 1
            checks.append(([0, *(node + 1 for node in on_path)], plain[base : base + 1 + len(path)]))
            taken = rng.randrange(len(on_path) + 1)
            commits.append((slot, chain, tuple(on_path[:taken])))
        if not plans:
            continue
        logits = runner.forward(plans)
        first_row = 0
        for plan, (rows, expected) in zip(plans, checks, strict=True):
            own = logits[first_row : first_row + 1 + len(plan.tree_tokens)]
            assert torch.equal(own[rows], expected), (plan.slot.length, len(plan.chain), plan.tree_parents)
            first_row += 1 + len(plan.tree_tokens)
        for slot, chain, accepted in commits:
            runner.commit(slot, chain, accepted)


@pytest.mark.parametrize("seed", range(6))
def test_trees_with_junk_branches_give_the_bits_of_plain_decoding(family, seed):
    runner, texts = family
    rng = random.Random(seed)
    start = rng.randrange(BLOCK - 30, BLOCK - 5)
    tokens, _ = texts[1]
    advance(runner, rng, [(fill(runner, tokens[:start]), texts[1])], num_steps=25)


@pytest.mark.parametrize("seed", range(4))
def test_any_mix_of_sessions_in_a_step_gives_the_bits_of_plain_decoding(family, seed):
    runner, texts = family
    rng = random.Random(seed)
    starts = [rng.randrange(BLOCK - 16, BLOCK + 16), rng.randrange(1, 40), rng.randrange(100, BLOCK)]
    sessions = [(fill(runner, text[0][:start]), text) for start, text in zip(starts, texts, strict=True)]
    advance(runner, rng, sessions, num_steps=15)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(0.8, top_k=40, top_p=0.9, seed=11)], ids=["greedy", "sampled"]
)
def test_a_step_commits_what_plain_steps_commit_and_reports_the_best_tokens(family, sampling):
    runner, texts = family
    prompt = texts[0][0][:250]
    sampler = Sampler(sampling)

    def step(slot, chain, tree=(), parents=()):
        plan = SessionPlan(slot, tuple(chain), True, tuple(tree), tuple(parents), sampler, 4, True)
        return runner.step(StepPlan((plan,))).sessions[0]

    slot = fill(runner, prompt[:-1])
    plain, tops = [prompt[-1]], []
    for _ in range(12):
        outcome = step(slot, plain[-1:])
        plain += outcome.tokens
        tops.append((outcome.top.ids[0], outcome.top.log_probs[0]))
    slot = fill(runner, prompt[:-1])
    tree, parents, on_path = random_tree(plain[1:9], 10, random.Random(0))
    outcome = step(slot, plain[:1], tree, parents)
    num_right = len(outcome.accepted)
    assert num_right >= 8
    assert outcome.tokens[:9] == tuple(plain[1:10])
    assert outcome.accepted[:8] == tuple(on_path)
    assert len(outcome.top.ids) == 1 + len(tree)
    for index, row in enumerate([0, *(node + 1 for node in on_path)]):
        ids, log_probs = tops[index]
        assert outcome.top.ids[row] == ids
        assert outcome.top.log_probs[index] == log_probs
    assert slot.length == 249 + 1 + num_right
    assert step(slot, outcome.tokens[-1:]).tokens == tuple(plain[num_right + 2 : num_right + 3])


def test_log_probabilities_are_those_of_the_softmax(family):
    runner, texts = family
    tokens, plain = texts[0]
    slot = fill(runner, tokens[:9])
    plan = SessionPlan(slot, (tokens[9],), True, (), (), GREEDY, 3, True)
    top = runner.step(StepPlan((plan,))).sessions[0].top
    expected = torch.log_softmax(plain[9].float(), dim=-1).topk(3)
    assert top.ids == [expected.indices.tolist()]
    assert torch.allclose(torch.tensor(top.log_probs[0]), expected.values.cpu(), atol=1e-5)


def test_a_stretch_that_does_not_complete_fills_the_cache_and_commits_nothing(family):
    runner, texts = family
    tokens, plain = texts[0]
    slot = runner.new_slot(20)
    first = SessionPlan(slot, tuple(tokens[:9]), False, (), (), GREEDY)
    assert runner.step(StepPlan((first,))).sessions[0].tokens == ()
    last = SessionPlan(slot, tuple(tokens[9:12]), True, (), (), GREEDY)
    assert runner.step(StepPlan((last,))).sessions[0].tokens == (int(plain[11].argmax()),)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("inner", "outer"), [(48, 96), (576, 192), (1536, 576), (64, 4096)])
def test_a_row_of_a_packed_linear_layer_has_the_same_bits_among_any_number_of_rows(inner, outer, dtype):
    torch.manual_seed(0)
    packed = PackedLinear(torch.nn.Linear(inner, outer, dtype=dtype))
    rows = torch.randn(100, inner, dtype=dtype)
    pairs = torch.stack([packed(torch.stack([row, rows[0]]))[0] for row in rows])
    for count in (*range(MIN_ROWS, 41), 63, 64, 65, 97, 100):
        assert torch.equal(packed(rows[:count]), pairs[:count]), count
        assert torch.equal(packed(rows[None, :count]), pairs[None, :count]), count


def test_no_layer_ever_sees_fewer_rows_than_it_needs(family):
    runner, texts = family
    if runner.kind[1] != "transformers":
        pytest.skip("the native decoder has no such layers")
    seen: list[int] = []
    hooks = [
        module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].shape[-2]))
        for module in runner.model.modules()
        if isinstance(module, PackedLinear)
    ]
    runner.forward((SessionPlan(runner.new_slot(4), (texts[0][0][0],), True, (), (), GREEDY),))
    for hook in hooks:
        hook.remove()
    assert len(seen) == len(hooks) == 15
    assert min(seen) >= MIN_ROWS == 2


def test_a_model_with_attention_sinks_is_found_out():
    config = GptOssConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        num_local_experts=2,
        num_experts_per_tok=1,
        max_position_embeddings=131072,
        initializer_range=0.3,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    reference = reference_logits(model)
    runner = TransformersRunner(model)
    runner.allocate(8)
    assert disagreement(runner, reference) > MAX_DISAGREEMENT
