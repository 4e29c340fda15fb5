"""Steps over a real socket: what is told of them is what happened, and asking changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from service_at_work import GREEDY, HOT, PROMPT, Answer, Drafter, knows, running, talks_garbage
from tiny_models import make_tokenizer, save_target

from paceline.v1 import generation_pb2, types_pb2
from paceline.verifier.model.tokenizer import TargetTokenizer

NUM_TOKENS = 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_target(tmp_path_factory.mktemp("target"))


@pytest.fixture
async def start(folder) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:
        yield lambda **settings: stack.enter_async_context(running(folder, **settings))


def steps(max_nodes: int = 0) -> generation_pb2.StepsRequest:
    return generation_pb2.StepsRequest(max_nodes=max_nodes)


def check(answer: Answer) -> None:
    """The laws of steps, for an answer of which nothing was hidden."""
    assert [token for _, tokens in answer.steps for token in tokens.ids] == answer.ids
    total = answer.finished.total
    assert sum(len(step.nodes) for step, _ in answer.steps) == total.nodes
    for step, tokens in answer.steps:
        accepted = [index for index, node in enumerate(step.nodes) if node.accepted]
        assert [step.nodes[index].parent for index in accepted] == [0, *(index + 1 for index in accepted)][
            : len(accepted)
        ]
        told = [step.nodes[index].id for index in accepted]
        assert list(tokens.ids) in (told, [*told, tokens.ids[-1]])  # an answer may end within what was accepted
        names, own_names = ["", *step.source_names], ["", *tokens.source_names]
        first = [names[step.nodes[index].sources[0]] for index in accepted]
        assert [own_names[source] for source in tokens.sources][: len(told)] == first
        assert all(node.parent <= index for index, node in enumerate(step.nodes))
        assert all(0.0 < node.probability <= 1.0 for node in step.nodes)
        assert step.hidden_nodes == 0
        assert step.rows > len(step.nodes)
        assert step.step_s > 0.0
        assert step.plain_step_s == 0.02  # the flat cost's
    assert sum(step.step_s for step, _ in answer.steps) >= total.verify_s


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
async def test_steps_say_what_was_verified_and_asking_changes_nothing(start, sampling):
    client = await start()
    request = {"sampling": sampling, "max_tokens": NUM_TOKENS}
    plain = await client.generate(**request)
    assert (plain.steps, plain.pieces) == ([], [])
    await Drafter(knows(plain.ids), drafter_id="d1", name="right").connect(client)
    await Drafter(talks_garbage(3), drafter_id="d2", name="garbage").connect(client)
    asked = await client.generate(**request, steps=steps())
    assert (asked.ids, asked.text, asked.end) == (plain.ids, plain.text, plain.end)
    check(asked)
    assert asked.finished.total.steps < NUM_TOKENS / 2
    assert {name for step, _ in asked.steps for name in step.source_names} == {"right/s", "garbage/s"}
    tokenizer = TargetTokenizer(make_tokenizer())
    assert asked.pieces == [tokenizer.piece(token) for token in asked.ids]
    assert all(node.piece == tokenizer.piece(node.id) for step, _ in asked.steps for node in step.nodes)


async def test_each_session_of_a_batch_hears_of_its_own_nodes(start):
    client = await start(max_sessions=3)
    prompts = [PROMPT, PROMPT[2:], PROMPT * 3]
    await Drafter(talks_garbage(5)).connect(client)
    both = await asyncio.gather(
        *(
            client.generate(token_ids=types_pb2.TokenIds(ids=prompt), max_tokens=NUM_TOKENS, steps=wish)
            for prompt, wish in zip(prompts, (steps(), steps(), None), strict=True)
        )
    )
    for answer in both[:2]:
        check(answer)
    assert both[2].steps == []


async def test_what_max_nodes_leaves_out_is_counted(start):
    client = await start()
    plain = await client.generate(max_tokens=NUM_TOKENS)
    await Drafter(knows(plain.ids)).connect(client)
    asked = await client.generate(max_tokens=NUM_TOKENS, steps=steps(2))
    assert asked.ids == plain.ids
    assert max(len(step.nodes) for step, _ in asked.steps) == 2
    assert any(step.hidden_nodes for step, _ in asked.steps)
    verified = sum(len(step.nodes) + step.hidden_nodes for step, _ in asked.steps)
    assert verified == asked.finished.total.nodes


async def test_without_speculation_steps_are_plain(start):
    client = await start()
    asked = await client.generate(max_tokens=5, speculation=types_pb2.Speculation(off=True), steps=steps())
    check(asked)
    assert [(len(step.nodes), len(tokens.ids)) for step, tokens in asked.steps] == [(0, 1)] * 5


async def test_another_verifier_goes_on_telling(start):
    client = await start()
    plain = await client.generate(max_tokens=NUM_TOKENS)
    rest = await client.generate(max_tokens=NUM_TOKENS, committed=plain.ids[:11], steps=steps())
    assert rest.ids == plain.ids[11:]
    check(rest)
