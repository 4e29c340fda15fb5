"""Whatever drafters propose, a constrained answer is the one it would be without them, and a document of its schema."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_documents import SCHEMAS, constraint_for, encoded, target_tokenizer, valid
from tiny_models import EOS, VOCAB, make_model, make_runner, plain_logits

from paceline.verifier.model.batch import StepPlan
from paceline.verifier.model.log_probs import TokenLogProbs
from paceline.verifier.model.runner import Runner
from paceline.verifier.request import Request
from paceline.verifier.sampling import Sampling
from paceline.verifier.session import Finish, Session, TokensEvent
from paceline.verifier.text import TextStream
from paceline.verifier.trie import Source
from paceline.wire.tree import DraftTree

MAX_TOKENS = 120
MOST_NODES = 20  # that LEAN_SHAPE has room for
SOURCES = (Source("d", "s"),)
Propose = Callable[[list[int]], DraftTree | None]  # the answer so far → candidates


@pytest.fixture(scope="module", params=["transformers", "native", "lean"])
def runner(request: pytest.FixtureRequest) -> Runner:
    return make_runner("llama", request.param, num_blocks=200)


def silent(_answer: list[int]) -> DraftTree | None:
    return None


def knows(whole: list[int], rng: random.Random) -> Propose:
    """The right continuation for some tokens, and wrong ones beside it."""

    def propose(answer: list[int]) -> DraftTree:
        path = whole[len(answer) :][: rng.choice((1, 4, 9))]
        tokens, parents = list(path), list(range(-1, len(path) - 1))
        for _ in range(rng.choice((0, 6))):
            parents.append(rng.randrange(-1, len(tokens)))
            tokens.append(rng.randrange(VOCAB))
        return DraftTree(tuple(tokens), tuple(parents), (-0.1,) * len(tokens), (0,) * len(tokens))

    return propose


def garbage(rng: random.Random) -> Propose:
    def propose(_answer: list[int]) -> DraftTree:
        tokens = tuple(rng.randrange(VOCAB) for _ in range(40))
        parents = tuple(rng.randrange(-1, node) for node in range(40))
        return DraftTree(tokens, parents, (-0.2,) * 40, (0,) * 40)

    return propose


class Answered:
    def __init__(self, session: Session, num_steps: int, num_verified: int) -> None:
        session.release_events()
        self.ids = session.tokens[len(session.request.prompt) :]
        self.finish = session.finish
        self.num_steps = num_steps
        self.num_verified = num_verified
        events = [session.events.get_nowait() for _ in range(session.events.qsize())]
        self.log_probs: list[TokenLogProbs] = [
            told for event in events if isinstance(event, TokensEvent) for told in event.log_probs
        ]

    @property
    def text(self) -> str:
        return target_tokenizer().tokenizer.decode(self.ids, skip_special_tokens=True)


def answer(runner: Runner, request: Request, schema: dict[str, Any] | None, propose: Propose) -> Answered:
    """As the engine does it, without the engine."""
    constraint = None if schema is None else constraint_for(schema, request.committed)
    text = TextStream(target_tokenizer().tokenizer, request.prompt)
    session = Session(1, request, text, frozenset({EOS}), 256, constraint)
    session.slot = runner.new_slot(len(request.prompt) + MAX_TOKENS)
    num_steps = num_verified = 0
    while session.finish is None:
        missing = session.length - session.slot.length
        candidates = []
        if missing == 1:
            tree = propose(session.tokens[len(request.prompt) :])
            if tree is not None:
                session.trie.graft(tree, SOURCES)
            room = request.max_tokens - session.num_generated - 1
            candidates = session.trie.plan(lambda _node: 0.5, MOST_NODES, room) if room else []
        step = session.plan(candidates, min(missing, runner.max_session_rows), 0, False)
        (result,) = runner.step(StepPlan((step,))).sessions
        assert result.error is None
        session.slot.length = step.slot.length
        if result.tokens:
            session.commit(result, candidates)
            num_verified += len(candidates)
            num_steps += 1
    runner.pool.close(session.slot)
    return Answered(session, num_steps, num_verified)


def asked(prompt: str, sampling: Sampling, **fields: Any) -> Request:
    return Request("r", tuple(encoded(prompt)), sampling, MAX_TOKENS, **fields)


SAMPLINGS = st.builds(
    Sampling,
    st.sampled_from((0.0, 0.8)),
    top_k=st.sampled_from((0, 0, 3)),
    top_p=st.sampled_from((1.0, 1.0, 0.7)),
    min_p=st.sampled_from((0.0, 0.0, 0.1)),
    seed=st.integers(0, 2**64 - 1),
)


@given(
    name=st.sampled_from(sorted(SCHEMAS)),
    prompt=st.sampled_from(("to be", "def fibonacci", "Grüße", "the dog sleeps")),
    sampling=SAMPLINGS,
    seed=st.integers(0, 2**32),
)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_speculation_changes_nothing_and_the_answer_is_a_document(runner, name, prompt, sampling, seed):
    schema = SCHEMAS[name]
    request = asked(prompt, sampling, log_probs=3)
    rng = random.Random(seed)
    plain = answer(runner, request, schema, silent)
    assert plain.num_steps == len(plain.ids)
    drafted = answer(runner, request, schema, knows(plain.ids, rng))
    nonsense = answer(runner, request, schema, garbage(rng))
    for other in (drafted, nonsense):
        assert other.ids == plain.ids
        assert other.log_probs == plain.log_probs  # to the bit
    assert drafted.num_steps < plain.num_steps
    if plain.finish is Finish.STOP:
        assert plain.ids[-1] == EOS
        assert valid(schema, json.loads(plain.text))
    else:
        assert len(plain.ids) == MAX_TOKENS
    again = answer(runner, request_after(request, plain.ids[: len(plain.ids) // 2]), schema, garbage(rng))
    assert again.ids == plain.ids


def request_after(request: Request, committed: list[int]) -> Request:
    return Request("r", request.prompt, request.sampling, MAX_TOKENS, committed=tuple(committed))


def test_dense_documents_come_to_an_end_and_differ_by_seed(runner):
    texts = set()
    for seed in range(6):
        found = answer(runner, asked("to be", Sampling(0.8, seed=seed)), SCHEMAS["object"], silent)
        assert found.finish is Finish.STOP
        assert valid(SCHEMAS["object"], json.loads(found.text))
        texts.add(found.text)
    assert len(texts) > 3


def test_rows_are_not_wasted_on_what_the_grammar_forbids(runner):
    request, rng = asked("to be", Sampling()), random.Random(0)
    free = answer(runner, request, None, garbage(rng))
    bound = answer(runner, request, SCHEMAS["object"], garbage(rng))
    assert bound.num_verified / bound.num_steps < 0.5 * free.num_verified / free.num_steps


def test_the_mask_comes_before_top_k(runner):
    """Of the single likeliest token that is left, not of the likeliest of all."""
    greedy = answer(runner, asked("to be", Sampling()), SCHEMAS["object"], silent)
    narrow = answer(runner, asked("to be", Sampling(1.5, top_k=1, seed=3)), SCHEMAS["object"], silent)
    assert greedy.ids == narrow.ids


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("engine", ["transformers", "native", "lean"])
def test_log_probabilities_are_those_of_the_models_logits(family, engine):
    runner = make_runner(family, engine, num_blocks=200)
    request = asked("the quick brown", Sampling(0.8, seed=5), log_probs=20)
    found = answer(runner, request, None, garbage(random.Random(1)))
    assert len(found.log_probs) == len(found.ids) > 10
    tokens = [*request.prompt, *found.ids]
    logits = make_model(family)(torch.tensor([tokens])).logits[0]
    expected = torch.log_softmax(logits.double(), dim=-1)[len(request.prompt) - 1 : -1]
    same_bits = plain_logits(runner, tokens)[len(request.prompt) - 1 : -1].cpu()
    for place, (token, told) in enumerate(zip(found.ids, found.log_probs, strict=True)):
        assert told.log_prob == pytest.approx(float(expected[place, token]), abs=1e-4)
        ranked = sorted(range(VOCAB), key=lambda other, row=same_bits[place]: (-float(row[other]), other))
        assert [other for other, _ in told.top] == ranked[:20]
        for other, log_prob in told.top:
            assert log_prob == pytest.approx(float(expected[place, other]), abs=1e-4)
        assert all(np.float32(log_prob) == log_prob for _, log_prob in told.top)


def test_log_probabilities_are_before_constraint_and_temperature(runner):
    request = asked("to be", Sampling(0.8, top_k=2, seed=1), log_probs=5)
    found = answer(runner, request, SCHEMAS["object"], silent)
    logits = plain_logits(runner, [*request.prompt, *found.ids])[len(request.prompt) - 1 : -1].cpu()
    expected = torch.log_softmax(logits.double(), dim=-1)
    for place, (token, told) in enumerate(zip(found.ids, found.log_probs, strict=True)):
        assert told.log_prob == pytest.approx(float(expected[place, token]), abs=1e-5)
    pairs = zip(found.ids, found.log_probs, strict=True)
    assert any(token not in [other for other, _ in told.top] for token, told in pairs)


def test_whoever_did_not_ask_is_told_nothing(runner):
    found = answer(runner, asked("to be", Sampling()), None, silent)
    assert found.log_probs == []
