"""Constraints and log-probabilities over a real socket, beside drafters and other requests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from json_documents import SCHEMAS, encoded, failing, valid
from service_at_work import HOT, OFF, Answer, Drafter, knows, refused, running, talks_garbage
from tiny_models import EOS, make_tokenizer, save_target

from paceline.v1 import generation_pb2
from paceline.verifier.grammar.constraint import Constraint
from paceline.wire.errors import Reason

SCHEMA = SCHEMAS["object"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_target(tmp_path_factory.mktemp("target"))


@pytest.fixture
async def start(folder: Path) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:
        yield lambda **settings: stack.enter_async_context(running(folder, **settings))


def constrained(schema: Any = SCHEMA, **fields: Any) -> dict[str, Any]:
    text = schema if isinstance(schema, str) else json.dumps(schema)
    return {
        "constraint": generation_pb2.Constraint(json_schema=text),
        "ignore_eos": False,
        "max_tokens": 100,
        **fields,
    }


def told(answer: Answer) -> list[bytes]:
    """Every bit of the log-probabilities."""
    return [item.SerializeToString(deterministic=True) for item in answer.log_probs]


@pytest.mark.parametrize("engine", ["native", "transformers", "lean"])
async def test_drafters_change_neither_the_document_nor_what_is_told_of_its_tokens(start, engine):
    client = await start(engine=engine)
    asked = constrained(sampling=HOT, log_probs=generation_pb2.LogProbsRequest(top=2))
    plain = await client.generate(speculation=OFF, **asked)
    assert plain.finished.reason == generation_pb2.FINISH_REASON_STOP
    assert plain.ids[-1] == EOS
    assert valid(SCHEMA, json.loads(plain.text))
    await Drafter(knows(plain.ids)).connect(client)
    helped = await client.generate(**asked)
    await Drafter(talks_garbage(3), drafter_id="d2").connect(client)
    together = await asyncio.gather(
        client.generate(**asked),
        client.generate(sampling=HOT),
        client.generate(**constrained(SCHEMAS["list of words"], max_tokens=3)),
    )
    for answer in (helped, together[0]):
        assert (answer.ids, answer.text) == (plain.ids, plain.text)
        assert told(answer) == told(plain)
    assert helped.finished.total.steps < plain.finished.total.steps / 2
    assert len(together[2].ids) == 3
    assert together[2].finished.reason == generation_pb2.FINISH_REASON_LENGTH


async def test_log_probabilities_come_one_for_each_token_with_its_bytes(start):
    client = await start()
    plain = await client.generate(sampling=HOT)
    answer = await client.generate(sampling=HOT, log_probs=generation_pb2.LogProbsRequest(top=20))
    assert answer.ids == plain.ids
    assert plain.log_probs == []
    assert [item.token.id for item in answer.log_probs] == answer.ids
    text = b"".join(item.token.piece for item in answer.log_probs)
    assert text.decode(errors="replace") == make_tokenizer().decode(answer.ids)
    for item in answer.log_probs:
        values = [other.log_prob for other in item.top]
        assert len(values) == 20
        assert values == sorted(values, reverse=True)
        assert item.token.log_prob <= values[0] <= 0.0
    none = await client.generate(sampling=HOT, log_probs=generation_pb2.LogProbsRequest())
    assert [item.token for item in none.log_probs] == [item.token for item in answer.log_probs]
    assert all(len(item.top) == 0 for item in none.log_probs)


async def test_a_constrained_answer_that_broke_off_is_gone_on_with(start):
    client = await start()
    whole = await client.generate(**constrained(sampling=HOT))
    for cut in (1, len(whole.ids) // 2, len(whole.ids) - 1, len(whole.ids)):
        rest = await client.generate(**constrained(sampling=HOT, committed=whole.ids[:cut]))
        assert whole.ids[:cut] + rest.ids == whole.ids
        assert rest.finished.reason == whole.finished.reason
    code, error = await client.refusal(**constrained(committed=[*whole.ids[:3], *encoded("}}")]))
    assert (code, error.reason, error.field) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.MALFORMED, "committed")


async def test_a_bad_schema_is_refused_and_nobody_else_notices(start):
    client = await start()
    beside = asyncio.create_task(client.generate(sampling=HOT))
    for schema in ("nope", '{"type": "objekt"}', "x" * 65537):
        code, error = await client.refusal(**constrained(schema))
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert error.field == "constraint.json_schema"
    assert len((await beside).ids) == 24
    assert client.verifier.state.by_request == {}


async def test_a_session_whose_grammar_fails_in_mid_way_fails_alone(start, monkeypatch):
    client = await start()
    plain = (await client.generate(sampling=HOT)).ids

    async def too_complex_soon(_schema: str, _committed: Any) -> Constraint:
        return Constraint(failing(limit=5))

    monkeypatch.setattr(client.verifier.state.loaded.compiler, "constraint", too_complex_soon)
    beside = asyncio.create_task(client.generate(sampling=HOT))
    call = client.begin(**constrained())
    code, error = await refused(call.rest())
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.OUT_OF_RANGE)
    assert error.field == "constraint.json_schema"
    assert 0 < len(call.answer.ids) <= 6
    assert (await beside).ids == plain
    assert client.engine.num_running == 0
    assert (await client.generate(sampling=HOT)).ids == plain
