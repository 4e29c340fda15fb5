"""The service over a real socket, with a tiny model and hand-written drafters."""

from __future__ import annotations

import asyncio
import copy
import functools
import hashlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from service_at_work import (
    DEADLINE_S,
    GREEDY,
    HOT,
    OFF,
    PROMPT,
    STEP_S,
    Answer,
    Client,
    Drafter,
    GatedModel,
    Propose,
    chain,
    eventually,
    knows,
    refused,
    running,
    silent,
    talks_garbage,
)
from tiny_models import CONTEXT, DEVICES, EOS, VOCAB, make_model, make_tokenizer, save_target
from transformers import AutoTokenizer

from paceline.v1 import (
    drafting_pb2,
    generation_pb2,
    trainer_pb2,
    trainer_pb2_grpc,
    types_pb2,
    verifier_pb2,
)
from paceline.verifier.__main__ import Verifier
from paceline.verifier.allowance import MAX_BURST_S, MAX_SHARE, MESSAGE_S, NODE_S
from paceline.verifier.cost import ForwardCost
from paceline.verifier.model import engines
from paceline.verifier.model.blocks import BLOCK_TOKENS
from paceline.verifier.model.features import bits_of
from paceline.verifier.model.lean_runner import LeanRunner
from paceline.verifier.model.lean_step import StepShape
from paceline.verifier.planning import MAX_PREFILL_ROWS
from paceline.verifier.settings import VerifierSettings
from paceline.wire.channel import connect
from paceline.wire.digest import digest_of
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import ClientSettings
from paceline.wire.tree import Anchor, DraftTree, encode_tree
from paceline.wire.version import PROTOCOL_MAJOR, make_peer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_target(tmp_path_factory.mktemp("target"))


@pytest.fixture
async def start(folder) -> AsyncIterator[Callable[..., Any]]:
    async with AsyncExitStack() as stack:
        yield lambda **settings: stack.enter_async_context(running(folder, **settings))


async def test_text_messages_and_token_ids_are_ways_to_say_the_same(start):
    client = await start()
    tokenizer = make_tokenizer()
    by_ids = await client.generate(sampling=HOT)
    by_text = await client.generate(text="to be or not to be", sampling=HOT)
    assert by_text.ids == by_ids.ids
    assert by_text.text == by_ids.text == tokenizer.decode(by_ids.ids, skip_special_tokens=True)
    assert by_ids.started.model == "tiny"
    assert (by_ids.started.seed, by_ids.started.prompt_tokens) == (11, len(PROMPT))
    assert by_ids.started.verifier_id == client.verifier.state.verifier_id
    assert by_ids.finished.reason == generation_pb2.FINISH_REASON_LENGTH
    assert by_ids.finished.total.steps == 23  # the first token comes with the prompt's last stretch
    messages = types_pb2.ChatMessages(messages=[types_pb2.ChatMessage(role="user", content="to be")])
    by_chat = await client.generate(messages=messages)
    core = [tokenizer.convert_tokens_to_ids("<|user|>"), *tokenizer("to be")["input_ids"]]
    core.append(tokenizer.convert_tokens_to_ids("<|assistant|>"))
    assert (await client.generate(token_ids=types_pb2.TokenIds(ids=core))).ids == by_chat.ids


async def test_a_prompts_last_stretch_is_no_step_even_if_it_is_one_token(start):
    client = await start()
    answer = await client.generate(
        token_ids=types_pb2.TokenIds(ids=(PROMPT * 129)[: MAX_PREFILL_ROWS + 1]), max_tokens=5
    )
    assert answer.finished.total.steps == 4
    assert answer.finished.total.prefill_s > 0.0


async def test_a_seed_that_was_drawn_here_is_reported_and_repeats_the_text(start):
    client = await start()
    first = await client.generate(sampling=types_pb2.Sampling(temperature=1.0))
    second = await client.generate(sampling=types_pb2.Sampling(temperature=1.0))
    again = await client.generate(sampling=types_pb2.Sampling(temperature=1.0, seed=first.started.seed))
    assert first.ids == again.ids
    assert first.ids != second.ids


async def test_sessions_at_once_get_what_each_gets_alone(start):
    client = await start(max_sessions=3)
    samplings = [GREEDY, HOT, types_pb2.Sampling(temperature=1.3, top_k=9, seed=3), types_pb2.Sampling(seed=5)]
    prompts = [PROMPT, PROMPT[2:], PROMPT * 30, PROMPT * 22]
    requests = [
        {"sampling": sampling, "token_ids": types_pb2.TokenIds(ids=prompt), "max_tokens": 40}
        for sampling, prompt in zip(samplings, prompts, strict=True)
    ]
    alone = [(await client.generate(**request)).ids for request in requests]
    together = await asyncio.gather(*(client.generate(**request) for request in requests))
    assert [answer.ids for answer in together] == alone


async def test_health_and_reflection_and_loading(folder):
    verifier = Verifier(VerifierSettings(model=str(folder), listen="127.0.0.1:0", device="cpu", drain_s=0.0))
    address = await verifier.server.bind()
    async with connect(address, ClientSettings()) as channel:
        client = Client(verifier, channel)
        health = health_pb2_grpc.HealthStub(channel)
        check = health_pb2.HealthCheckRequest(service="paceline.v1.Verifier")
        assert (await health.Check(check)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        code, error = await client.refusal()
        assert (code, error.reason, error.retry_after_s) == (grpc.StatusCode.UNAVAILABLE, Reason.LOADING, 1.0)
        await verifier.start()
        await verifier.server.set_ready(True)
        assert (await health.Check(check)).status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()
        await reflection.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        services = {service.name for service in (await reflection.read()).list_services_response.service}
        assert {"paceline.v1.Verifier", "grpc.health.v1.Health"} <= services
        await reflection.done_writing()
    await verifier.server.grpc.stop(None)
    await verifier.close()


async def test_errors_carry_code_reason_field_and_limit(start):
    client = await start()
    code, error = await client.refusal(sampling=types_pb2.Sampling(temperature=-1.0))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.OUT_OF_RANGE)
    assert (error.field, error.value, error.limit) == ("sampling.temperature", "-1.0", "in [0, 100]")
    code, error = await client.refusal(model="other")
    assert (code, error.reason, error.limit) == (grpc.StatusCode.NOT_FOUND, Reason.UNKNOWN_MODEL, "tiny")
    _, error = await client.refusal(speculation=types_pb2.Speculation(drafters=["nobody"]))
    assert (error.reason, error.limit) == (Reason.UNKNOWN_DRAFTER, "none connected")
    _, error = await client.refusal(token_ids=types_pb2.TokenIds(ids=[5] * CONTEXT))
    assert (error.reason, error.limit) == (Reason.PROMPT_TOO_LONG, str(CONTEXT - 1))
    engage = verifier_pb2.EngageRequest(request_id="nobody")
    _, error = await refused(client.stub.Engage(engage))
    assert (error.reason, error.field) == (Reason.UNKNOWN_REQUEST, "request_id")
    assert client.verifier.state.by_request == {}
    assert len((await client.generate(model="tiny")).ids) == 24


async def test_a_cancelled_request_frees_its_slot_at_once_and_the_next_one_runs(start):
    client = await start(max_sessions=1)
    model = GatedModel(client.engine)
    first = await client.begin(request_id="first").started()
    await eventually(lambda: client.engine.num_running == 1 and model.waiting.is_set())
    second = asyncio.create_task(client.generate(request_id="second"))
    await eventually(lambda: client.engine.num_queued == 1)
    first.cancel()
    # The step that the first is in still stands at the gate.
    await eventually(lambda: client.engine.num_running == 0)
    assert "first" not in client.verifier.state.by_request
    model.gate.set()
    assert len((await second).ids) == 24
    model.gate.clear()
    third, fourth = [await client.begin().started() for _ in range(2)]
    await eventually(lambda: client.engine.num_queued == 1)
    fourth.cancel()
    await eventually(lambda: client.engine.num_queued == 0)
    model.gate.set()
    assert len((await third.rest()).ids) == 24


@pytest.mark.parametrize("max_queue", [0, 1])
async def test_a_full_queue_refuses_and_says_when_to_come_back(start, max_queue):
    client = await start(max_sessions=1, max_queue=max_queue)
    model = GatedModel(client.engine)
    accepted = [await client.begin().started() for _ in range(1 + max_queue)]
    await eventually(lambda: (client.engine.num_running, client.engine.num_queued) == (1, max_queue))
    code, error = await client.refusal()
    assert (code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.OVERLOADED)
    assert (error.limit, error.retry_after_s) == (str(max_queue), 1.0)
    model.gate.set()
    for each in accepted:
        assert len((await each.rest()).ids) == 24


async def test_a_request_id_can_not_run_twice_at_once(start):
    client = await start()
    model = GatedModel(client.engine)
    first = await client.begin(request_id="twice").started()
    code, error = await client.refusal(request_id="twice")
    assert (code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, Reason.DUPLICATE_REQUEST)
    model.gate.set()
    assert len((await first.rest()).ids) == 24
    assert len((await client.generate(request_id="twice")).ids) == 24


async def test_a_step_that_fails_fails_its_requests_and_nobody_elses(start):
    client = await start()
    model = GatedModel(client.engine)
    model.gate.set()
    model.fails = True
    code, error = await client.refusal()
    assert (code, error.reason) == (grpc.StatusCode.INTERNAL, Reason.INTERNAL)
    model.fails = False
    assert len((await client.generate()).ids) == 24


async def test_what_still_runs_when_time_is_up_is_told_to_go_on_elsewhere(start):
    client = await start()
    model = GatedModel(client.engine)
    request = await client.begin().started()
    await eventually(model.waiting.is_set)
    draining = asyncio.create_task(client.verifier.drain())
    await eventually(lambda: client.verifier.state.draining)
    _, error = await client.refusal()
    assert error.reason is Reason.DRAINING
    _, error = await refused(request.rest())  # though its step still stands at the gate
    assert error.reason is Reason.DRAINING
    assert "what was committed" in error.message
    model.gate.set()
    await draining


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
async def test_right_candidates_save_steps_and_change_nothing_else(start, sampling):
    client = await start()
    plain = await client.generate(max_tokens=100, sampling=sampling, speculation=OFF)
    assert plain.finished.total.steps == 99
    assert plain.sources == [""] * 100
    drafter = Drafter(knows(plain.ids), name="oracle", strategies=["s", "t"])
    await drafter.connect(client)
    fast = await client.generate(max_tokens=100, sampling=sampling)
    assert (fast.ids, fast.text, fast.end) == (plain.ids, plain.text, plain.end)
    total = fast.finished.total
    assert total.steps < 50
    assert total.tokens == 100
    assert set(fast.sources) == {"", "oracle/s"}
    (credit,) = total.drafters
    assert (credit.drafter_id, credit.drafter_name, credit.strategy) == ("d1", "oracle", "s")
    assert credit.accepted == fast.sources.count("oracle/s") == 99 - total.steps
    assert credit.accepted <= credit.proposed <= total.nodes
    few = await client.generate(max_tokens=100, sampling=sampling, speculation=types_pb2.Speculation(max_nodes=2))
    assert few.ids == plain.ids
    assert few.finished.total.nodes <= 2 * few.finished.total.steps + 2
    assert drafter.opened[-1].max_nodes == 2
    off = await client.generate(max_tokens=20, sampling=sampling, speculation=OFF)
    assert off.finished.total.nodes == 0
    assert len(drafter.opened) == 2
    assert drafter.refusals == []
    await drafter.leave()


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
async def test_garbage_changes_nothing_alone_or_beside_a_good_drafter(start, sampling):
    client = await start()
    plain = await client.generate(max_tokens=60, sampling=sampling, speculation=OFF)
    garbage = Drafter(talks_garbage(1), drafter_id="g", name="garbage")
    await garbage.connect(client)
    alone = await client.generate(max_tokens=60, sampling=sampling)
    assert (alone.ids, alone.text, alone.end) == (plain.ids, plain.text, plain.end)
    assert alone.finished.total.nodes > 0
    oracle = Drafter(knows(plain.ids), drafter_id="o", name="oracle")
    await oracle.connect(client)
    both = await client.generate(max_tokens=60, sampling=sampling)
    assert (both.ids, both.text, both.end) == (plain.ids, plain.text, plain.end)
    assert both.finished.total.steps < 59
    chosen = types_pb2.Speculation(drafters=["garbage"])
    before = len(oracle.opened)
    assert (await client.generate(max_tokens=60, sampling=sampling, speculation=chosen)).ids == plain.ids
    assert len(oracle.opened) == before
    for drafter in (garbage, oracle):
        await eventually(lambda drafter=drafter: drafter.sessions == {})
        await drafter.leave()


async def test_metrics_say_how_deep_candidates_were_right_and_what_the_stream_carried(start):
    client = await start()
    plain = await client.generate(speculation=OFF)
    good = Drafter(knows(plain.ids), name="good", drafter_id="d1", strategies=["oracle"])
    await good.connect(client)
    answer = await client.generate()
    assert answer.ids == plain.ids
    families = {family.name: family.samples for family in client.engine.metrics.registry.collect()}
    tested, right = (
        {int(sample.labels["position"]): sample.value for sample in families[f"paceline:spec_decode_{name}_per_pos"]}
        for name in ("num_draft_tokens", "num_accepted_tokens")
    )
    assert tested == right  # it knows
    assert len(tested) > 1
    assert families["paceline:spec_decode_num_drafts"][0].value == tested[0]  # one chain a step
    assert tested[0] <= answer.finished.total.steps + 1  # a prompt's last stretch is no step
    assert sorted(tested.values(), reverse=True) == [tested[position] for position in range(len(tested))]
    assert sum(right.values()) == sum(credit.accepted for credit in answer.finished.total.drafters)
    assert {
        tuple(sorted(sample.labels.items()))[:1] for sample in families["paceline:drafter_draft_tokens_per_pos"]
    } == {(("drafter", "good"),)}
    traffic = {
        sample.labels["direction"]: sample.value
        for sample in families["paceline:draft_stream_bytes"]
        if sample.name.endswith("_total")
    }
    await eventually(lambda: good.num_closed == 1)
    assert traffic["sent"] >= sum(message.ByteSize() for message in (*good.opened, *good.commits))
    assert traffic["received"] > 0
    await good.leave()


async def test_a_drafter_that_breaks_the_rules_is_quarantined_and_changes_nothing(start):
    client = await start()
    plain = await client.generate(max_tokens=60, speculation=OFF)

    def lie(session_id: int, context: list[int]) -> list[drafting_pb2.DraftTree]:
        good = chain(session_id, context, [9, 9])
        wrong_context, wrong_session, cycle, unknown = (copy.copy(good) for _ in range(4))
        wrong_context.anchor.digest ^= 1
        wrong_session.anchor.session_id += 1
        cycle.parents[0] = 2
        unknown.tokens[0] = VOCAB
        return [wrong_context, wrong_session, cycle, unknown]

    drafter = Drafter(lie)
    await drafter.connect(client)
    answer = await client.generate(max_tokens=60)
    assert (answer.ids, answer.text) == (plain.ids, plain.text)
    assert answer.finished.total.nodes == 0
    await eventually(lambda: len(drafter.refusals) >= 8)
    reasons = [refusal.reason for refusal in drafter.refusals[:4]]
    assert reasons == ["WRONG_DIGEST", "UNKNOWN_SESSION", "TREE_MALFORMED", "TOKEN_OUT_OF_VOCABULARY"]
    assert drafter.refusals[7].quarantined
    told = await client.stub.GetModel(verifier_pb2.GetModelRequest())
    assert [(each.drafter_id, each.quarantined) for each in told.drafters] == [("d1", True)]


async def test_engage_switches_drafters_in_mid_request_and_the_text_stays(start):
    client = await start()
    plain = await client.generate(max_tokens=120, speculation=OFF)
    drafter = Drafter(knows(plain.ids))
    await drafter.connect(client)
    model = GatedModel(client.engine)
    request = client.begin(max_tokens=120, request_id="r", speculation=OFF)
    answer = request.answer

    async def engage(speculation: types_pb2.Speculation) -> None:
        await client.stub.Engage(verifier_pb2.EngageRequest(request_id="r", speculation=speculation))

    async def step_until(holds: Callable[[], bool]) -> None:
        model.gate.set()
        await request.until(holds)
        model.gate.clear()
        await eventually(model.waiting.is_set)

    await step_until(lambda: len(answer.ids) >= 10)
    assert drafter.opened == []
    await engage(types_pb2.Speculation(drafters=["test"]))
    await eventually(lambda: len(drafter.opened) == 1)
    await step_until(lambda: "test/s" in answer.sources)
    await engage(OFF)
    await eventually(lambda: drafter.num_closed == 1)
    await step_until(lambda: answer.sources[-2:] == ["", ""])
    # Off and on again before the stream's writer has run.
    await engage(types_pb2.Speculation())
    await eventually(lambda: len(drafter.opened) == 2)
    await asyncio.gather(engage(OFF), engage(types_pb2.Speculation()))
    model.gate.set()
    await request.rest()
    assert (answer.ids, answer.text) == (plain.ids, plain.text)
    _, error = await refused(engage(OFF))
    assert error.reason is Reason.UNKNOWN_REQUEST


async def test_a_drafter_that_joins_late_gets_the_context_so_far_and_its_best_tokens(start):
    client = await start()
    plain = await client.generate(max_tokens=200, speculation=OFF)
    model = GatedModel(client.engine)
    model.gate.set()
    request = client.begin(max_tokens=200)
    await request.until(lambda: len(request.answer.ids) >= 5)
    model.gate.clear()
    await eventually(model.waiting.is_set)
    drafter = Drafter(silent, commit_top_k=99)
    await drafter.connect(client)
    await eventually(lambda: len(drafter.opened) == 1)
    opened = drafter.opened[0]
    assert list(opened.tokens) == [*PROMPT, *plain.ids][: len(opened.tokens)]
    assert len(opened.tokens) > len(PROMPT)
    assert opened.prompt_tokens == len(PROMPT)
    model.gate.set()
    assert (await request.rest()).ids == plain.ids
    await eventually(lambda: drafter.num_closed == 1)
    assert drafter.welcome.commit_top_k == 16
    context = [*PROMPT, *plain.ids]
    commit = next(commit for commit in drafter.commits if len(commit.tokens) == 1 and len(commit.top_k.tokens) == 1)
    assert commit.top_k.k == 16
    assert commit.top_k.tokens[0] == context[commit.length - 2]
    assert commit.top_k.successors[0] == context[commit.length - 1] == commit.tokens[0]


def features_of(drafter: Drafter) -> dict[int, np.ndarray]:
    """[layers, hidden] bits by position of the one session it was told of: every one from the first to the last but one
    token that it heard of, and none twice. It may not have heard of all: a session's end is told at once."""
    rows: dict[int, np.ndarray] = {}
    for commit in drafter.commits:
        if commit.HasField("features"):
            values = np.frombuffer(commit.features.values, dtype="<u2")
            values = values.reshape(-1, len(drafter.welcome.feature_layers), drafter.welcome.hidden_size)
            told = range(commit.features.first, commit.features.first + len(values))
            assert len(told)
            assert not rows.keys() & set(told)
            assert told[-1] == commit.length - 2
            rows.update(zip(told, values, strict=True))
    assert list(rows) == list(range(min(rows), drafter.commits[-1].length - 1))
    return rows


async def test_drafters_get_the_hidden_states_they_asked_for_and_the_text_stays(folder):
    prompt = tuple(random.Random(3).choices(range(5, VOCAB), k=300))
    asked: dict[str, Any] = {"token_ids": types_pb2.TokenIds(ids=prompt), "max_tokens": 40}
    async with running(folder, verifier_id="v") as client:
        plain = await client.generate(**asked, tenant="other", speculation=OFF)
        GatedModel(client.engine).gate.set()
        all_of_it = Drafter(silent, feature_layers=[0, 1, 2])
        await all_of_it.connect(client)
        assert list(all_of_it.welcome.feature_layers) == [0, 1, 2]
        assert all_of_it.welcome.hidden_size == 48
        assert (await client.generate(**asked)).ids == plain.ids
        await eventually(lambda: all_of_it.num_closed == 1)
        known = features_of(all_of_it)
        assert min(known) == 0  # though the prompt was read in two chunks
        assert max(known) > len(prompt)
        embedding = make_model("llama").get_input_embeddings().weight
        for position, token in enumerate([*prompt, *plain.ids][: len(known)]):
            assert np.array_equal(known[position][0], bits_of(embedding[token].detach())), position

        again, few = (
            Drafter(silent, drafter_id="d2", feature_layers=[0, 1, 2]),
            Drafter(knows(plain.ids, prompt), drafter_id="d3", feature_layers=[2, 0], feature_window=5),
        )
        none = Drafter(silent, drafter_id="d4", feature_window=9)
        for drafter in (again, few, none):
            await drafter.connect(client)
        drafted = await client.generate(**asked, no_store=True)
        assert drafted.ids == plain.ids
        assert drafted.finished.total.steps < 39
        await eventually(lambda: all(drafter.num_closed == 1 for drafter in (again, few, none)))
        assert min(features_of(again)) == 0  # though most of it was found in the cache
        assert min(features_of(few)) == len(prompt) - 5
        for drafter, layers in ((again, [0, 1, 2]), (few, [2, 0])):
            for position, row in features_of(drafter).items():
                if position in known:
                    assert np.array_equal(row, known[position][layers]), position
        assert none.commits
        assert not any(commit.HasField("features") for commit in none.commits)
        assert not none.welcome.feature_layers
        assert none.welcome.hidden_size == 0
        for drafter in (all_of_it, again, few, none):
            await drafter.leave()
        await eventually(lambda: client.verifier.state.hub.feature_layers == ())

        client.engine._model.feature_source = None  # as of an engine that can't
        in_vain = Drafter(silent, feature_layers=[0, 1, 2])
        await in_vain.connect(client)
        assert (list(in_vain.welcome.feature_layers), in_vain.welcome.hidden_size) == ([], 0)
        assert (await client.generate(**asked)).ids == plain.ids
        await eventually(lambda: in_vain.num_closed == 1)
        assert not any(commit.HasField("features") for commit in in_vain.commits)
        await in_vain.leave()


async def test_who_joins_late_gets_hidden_states_from_then_on_and_a_message_is_never_too_long(folder):
    prompt = tuple(random.Random(4).choices(range(5, VOCAB), k=300))
    asked: dict[str, Any] = {"token_ids": types_pb2.TokenIds(ids=prompt), "max_tokens": 60}
    async with running(folder, max_message_bytes=64 * 1024) as client:
        first = Drafter(silent, drafter_id="d0", feature_layers=[1, 0, 0, 1])
        await first.connect(client)
        model = GatedModel(client.engine)
        model.gate.set()
        request = client.begin(**asked)
        await request.until(lambda: len(request.answer.ids) >= 5)
        model.gate.clear()
        await eventually(model.waiting.is_set)
        late = Drafter(silent, feature_layers=[2, 0])
        await late.connect(client)
        await eventually(lambda: len(late.opened) == 1)
        length = len(late.opened[0].tokens)
        assert length > len(prompt)
        model.gate.set()
        answer = await request.rest()
        await eventually(lambda: first.num_closed == late.num_closed == 1)
        known, told = features_of(first), features_of(late)
        most = 32 * 1024 // (4 * 48 * 2)
        assert min(known) == first.commits[0].length - 1 - most
        assert max(commit.ByteSize() for commit in first.commits) <= 34 * 1024
        assert min(told) == length  # the step that ran when it came captured no layer 2
        for position in told.keys() & known.keys():
            assert np.array_equal(told[position][1], known[position][1])
            assert np.array_equal(told[position][1], known[position][2])
        assert (await client.generate(**asked, speculation=OFF)).ids == answer.ids
        await first.leave()
        await late.leave()


@pytest.mark.parametrize("engine", ["native", "lean"])
async def test_sessions_that_give_way_get_their_hidden_states_again(folder, engine, monkeypatch):
    small = StepShape(rows=64, sessions=2, session_rows=64, wanted=64)
    monkeypatch.setattr(engines, "LeanRunner", functools.partial(LeanRunner, shape=small, segment_tokens=BLOCK_TOKENS))
    async with running(folder, engine=engine, kv_memory_mb=1) as client:
        pool = client.engine._model.pool
        assert pool.reserve(pool.open("", ()), (pool.num_available - 5) * BLOCK_TOKENS)
        drafter = Drafter(silent, feature_layers=[0])
        await drafter.connect(client)
        prompts = [PROMPT, PROMPT[::-1], PROMPT * 3]
        fields = [{"token_ids": types_pb2.TokenIds(ids=prompt), "max_tokens": 64} for prompt in prompts]
        answers = await asyncio.gather(*(client.generate(**each) for each in fields))
        assert client.engine.metrics.preemptions._value.get() > 0
        await eventually(lambda: not drafter.sessions)
        texts = {prompt: [*prompt, *answer.ids] for prompt, answer in zip(prompts, answers, strict=True)}
        prompt_of = {opened.session_id: tuple(opened.tokens[: opened.prompt_tokens]) for opened in drafter.opened}
        embedding = make_model("llama").get_input_embeddings().weight.detach()
        assert drafter.commits
        for commit in drafter.commits:
            values = np.frombuffer(commit.features.values, dtype="<u2").reshape(-1, 48)
            stretch = texts[prompt_of[commit.session_id]][commit.features.first :][: len(values)]
            assert len(values) >= max(1, len(commit.tokens))
            assert np.array_equal(values, bits_of(embedding[stretch]))
        await drafter.leave()


async def test_somebodys_own_drafter_hears_of_no_session_but_those_that_name_its_id(start):
    client = await start()
    plain = await client.generate(speculation=OFF)
    own = Drafter(talks_garbage(3), drafter_id="alice-1", name="suffix", own=True)
    # Of protocol 1.0, which is served as ever.
    old = types_pb2.Peer(package="old", protocol_major=PROTOCOL_MAJOR)
    other = Drafter(knows(plain.ids), drafter_id="d2", name="suffix", peer=old)
    for drafter in (own, other):
        await drafter.connect(client)
    asked = [[], ["suffix"], ["d2"], ["alice-1"], ["alice-1", "suffix"]]
    heard = []
    for named in asked:
        before = len(own.opened), len(other.opened)
        answer = await client.generate(speculation=types_pb2.Speculation(drafters=named))
        assert (answer.ids, answer.text) == (plain.ids, plain.text)
        assert (answer.finished.total.steps < 20) == (named != ["alice-1"])
        heard.append((len(own.opened) - before[0], len(other.opened) - before[1]))
    assert heard == [(0, 1), (0, 1), (0, 1), (1, 0), (1, 1)]
    told = await client.stub.GetModel(verifier_pb2.GetModelRequest())
    assert {each.drafter_id: each.own for each in told.drafters} == {"alice-1": True, "d2": False}


async def test_a_running_request_may_take_its_own_drafter_and_leave_it(start):
    client = await start()
    own = Drafter(silent, drafter_id="alice-1", own=True)
    await own.connect(client)
    model = GatedModel(client.engine)
    request = await client.begin(request_id="r").started()
    await eventually(model.waiting.is_set)
    for number, named in enumerate((["alice-1"], [], ["alice-1"]), 1):
        speculation = types_pb2.Speculation(drafters=named)
        await client.stub.Engage(verifier_pb2.EngageRequest(request_id="r", speculation=speculation))
        await eventually(lambda named=named: bool(own.sessions) == bool(named))
        assert len(own.opened) == (number + 1) // 2
    model.gate.set()
    assert len((await request.rest()).ids) == 24


def in_parts(answer: list[int], ahead: bool) -> Propose:
    """Proposes the right continuation bit by bit; what it says after the final tree is drafted ahead."""
    whole = [*PROMPT, *answer]

    def propose(session_id: int, context: list[int]) -> list[drafting_pb2.DraftTree]:
        def tree(length: int, final: bool) -> drafting_pb2.DraftTree:
            message = chain(session_id, context, whole[len(context) : len(context) + length])
            message.final = final
            return message

        nothing = tree(0, final=False)
        return [nothing, tree(1, False), tree(2, False), tree(3, True), *([tree(6, False), tree(9, True)] * ahead)]

    return propose


async def test_drafts_that_come_in_parts_are_all_used_and_change_nothing(start):
    client = await start()
    plain = await client.generate(max_tokens=100, speculation=OFF)
    for ahead in (False, True):
        drafter = Drafter(in_parts(plain.ids, ahead))
        await drafter.connect(client)
        fast = await client.generate(max_tokens=100)
        assert (fast.ids, fast.text, fast.end) == (plain.ids, plain.text, plain.end)
        assert fast.finished.total.steps < 50
        answers = client.verifier.state.hub.links["d1"].answers
        assert answers.first.num_answers >= answers.rest.num_answers > 0
        assert drafter.refusals == []
        await drafter.leave()
        await eventually(lambda: client.verifier.state.hub.links == {})


async def test_drafters_are_told_what_pays_and_how_fast_steps_follow_one_another(start):
    client = await start(drafting="auto")
    client.engine.times.cost = ForwardCost((1, 65), (0.02, 0.084))  # a row more costs a twentieth of the first
    model = GatedModel(client.engine)
    model.gate.set()
    drafter = Drafter(silent)
    await drafter.connect(client)
    started = time.perf_counter()
    await client.generate(max_tokens=40)
    elapsed_us = (time.perf_counter() - started) * 1e6
    await eventually(lambda: drafter.num_closed == 1)
    assert 0.0 < drafter.opened[0].least_value <= 0.05 + 1e-6
    first, *later = drafter.commits  # nothing was before the first step
    assert first.step_us > 0
    assert all(commit.step_us >= STEP_S * 1e6 * len(commit.tokens) for commit in later)
    assert sum(commit.step_us for commit in drafter.commits) <= elapsed_us


async def test_a_ping_is_answered_while_the_model_computes(start):
    client = await start()
    drafter = Drafter(silent)
    await drafter.connect(client)
    model = GatedModel(client.engine)
    request = await client.begin().started()
    await eventually(model.waiting.is_set)
    for nonce in (1, 2**64 - 1):
        drafter.ping(nonce)
    await eventually(lambda: drafter.pongs == [1, 2**64 - 1])
    for nonce in range(3000):
        drafter.ping(nonce)
    model.gate.set()
    assert len((await request.rest()).ids) == 24
    assert len(drafter.pongs) < 1500
    await drafter.leave()


async def test_a_drafter_that_floods_its_stream_is_read_slowly_and_the_others_are_served(start):
    client = await start()
    plain = await client.generate(max_tokens=60, speculation=OFF)
    flooding, good = Drafter(silent, drafter_id="f", name="flood"), Drafter(knows(plain.ids), name="good")
    for drafter in (flooding, good):
        await drafter.connect(client)
    link = client.verifier.state.hub.links["f"]
    read: list[float] = []
    pause_s = link.pause_s
    link.pause_s = lambda num_nodes=0: read.append(time.monotonic()) or pause_s(num_nodes)
    model = GatedModel(client.engine)
    request = await client.begin(max_tokens=60).started()
    await eventually(lambda: len(flooding.sessions) == 1 and model.waiting.is_set())
    ((session_id, context),) = flooding.sessions.items()
    for turn in range(20_000):
        tree = DraftTree((turn % VOCAB,) * 50, (-1, *range(49)), (-0.01,) * 50, (0,) * 50)
        flooding.outgoing.put_nowait(
            drafting_pb2.DrafterMessage(draft=encode_tree(Anchor(session_id, len(context), digest_of(context)), tree))
        )
    await eventually(lambda: len(read) > MAX_BURST_S / MESSAGE_S / 2)
    model.gate.set()
    answer = await request.rest()
    assert answer.ids == plain.ids
    assert answer.finished.total.steps < 50
    cost_s = MESSAGE_S + 50 * NODE_S
    assert (len(read) - 1) * cost_s <= 1.1 * MAX_BURST_S + MAX_SHARE * (read[-1] - read[0])


async def test_hello_is_checked_and_the_same_id_again_replaces_the_old_stream(start):
    client = await start()

    async def why_not(**hello: Any) -> PacelineError:
        return (await refused(Drafter(silent, **hello).connect(client)))[1]

    error = await why_not(peer=types_pb2.Peer(package="old", version="9", protocol_major=PROTOCOL_MAJOR + 1))
    assert error.reason is Reason.INCOMPATIBLE_VERSION
    assert "old 9 speaks protocol 2.0" in error.message
    for field_name, bad in (("drafter_id", ""), ("name", "n" * 201), ("strategies", []), ("strategies", [""])):
        error = await why_not(**{field_name: bad})
        assert (error.reason, error.field) == (Reason.OUT_OF_RANGE, f"hello.{field_name}")
    for layers, limit in (([0] * 9, "at most 8"), ([1, 3], "at most 2, the number of the target's layers")):
        error = await why_not(feature_layers=layers)
        assert (error.reason, error.field, error.limit) == (Reason.OUT_OF_RANGE, "hello.feature_layers", limit)
    no_hello = Drafter(silent)
    no_hello.outgoing.put_nowait(drafting_pb2.DrafterMessage(goodbye=drafting_pb2.Goodbye()))
    assert (await refused(no_hello.connect(client)))[1].reason is Reason.MALFORMED

    old, new = Drafter(silent), Drafter(silent)
    await old.connect(client)
    await new.connect(client)
    async with asyncio.timeout(DEADLINE_S):
        await old.ended
    assert len(client.verifier.state.hub.links) == 1
    await client.generate()
    assert (len(old.opened), len(new.opened)) == (0, 1)
    new.ended.cancel()
    await eventually(lambda: client.verifier.state.hub.links == {})
    assert len((await client.generate()).ids) == 24


async def test_get_tokenizer_hands_out_files_that_make_the_same_tokenizer(start, tmp_path):
    client = await start()
    parts = [part async for part in client.stub.GetTokenizer(verifier_pb2.GetTokenizerRequest())]
    manifest = parts[0].manifest
    content = b"".join(part.chunk for part in parts[1:])
    whole = hashlib.sha256()
    for file in manifest.files:
        body, content = content[: file.size], content[file.size :]
        assert hashlib.sha256(body).digest() == file.sha256
        whole.update(file.path.encode() + b"\0" + file.sha256)
        (tmp_path / file.path).write_bytes(body)
    assert content == b""
    told = await client.stub.GetModel(verifier_pb2.GetModelRequest())
    assert manifest.tokenizer_hash == told.tokenizer_hash == whole.hexdigest()
    copy = AutoTokenizer.from_pretrained(tmp_path)
    for text in ("to be or not", "naïve 🧑‍🚀", "<|user|>x"):
        assert copy(text)["input_ids"] == make_tokenizer()(text)["input_ids"]


async def test_get_model_describes_the_target_and_refuses_another_protocol(start):
    client = await start(max_sessions=3, context_length=100)
    told = await client.stub.GetModel(verifier_pb2.GetModelRequest(peer=make_peer("test", "0")))
    assert (told.model, told.architecture, told.dtype, told.device) == ("tiny", "LlamaForCausalLM", "bfloat16", "cpu")
    assert (told.vocab_size, told.context_length, told.max_sessions) == (VOCAB, 100, 3)
    assert list(told.eos_token_ids) == [EOS]
    assert told.num_parameters > 0
    assert (list(told.forward_rows), list(told.forward_ms)) == ([1, 64], [20.0, 20.0])
    stranger = types_pb2.Peer(package="x", protocol_major=PROTOCOL_MAJOR + 1)
    code, error = await refused(client.stub.GetModel(verifier_pb2.GetModelRequest(peer=stranger)))
    assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.INCOMPATIBLE_VERSION)


def has_character_of_several_tokens(answer: Answer) -> bool:
    whole = "".join(make_tokenizer().decode([token]) for token in answer.ids)
    return any(ord(letter) > 127 and letter != "\ufffd" and letter not in whole for letter in answer.text)


async def search(client: Client, **fields: Any) -> dict[str, Any]:
    """A request whose answer has a multi-byte character that lies across tokens."""
    for first in range(5, 100):
        request = {"token_ids": types_pb2.TokenIds(ids=[first, *PROMPT]), "speculation": OFF, **fields}
        if has_character_of_several_tokens(await client.generate(**request)):
            return request
    raise AssertionError("no answer has a character across tokens")


@pytest.mark.parametrize("sampling", [GREEDY, HOT], ids=["greedy", "hot"])
async def test_another_verifier_goes_on_wherever_the_answer_was_cut(start, sampling):
    client = await start()
    request = await search(client, sampling=sampling, max_tokens=20)
    plain = await client.generate(**request)
    letter = next(letter for letter in plain.text if ord(letter) > 127 and letter != "\ufffd")
    at = plain.text.rindex(letter)
    stop = plain.text[max(0, at - 1) : at + 2]
    for stops in ((), (stop,), ("not there", plain.text[-3:])):
        whole = await client.generate(**request, stop=stops)
        assert whole.text == (plain.text if not stops else plain.text[: plain.text.index(whole.finished.stop_string)])
        heads = await text_after_each_token(client, request, stops)
        for cut in range(len(whole.ids) + 1):
            rest = await client.generate(**request, stop=stops, committed=whole.ids[:cut])
            assert whole.ids[:cut] + rest.ids == whole.ids, cut
            assert heads[cut] + rest.text == whole.text, cut
            assert rest.end == whole.end, cut


async def text_after_each_token(client: Client, request: dict[str, Any], stops: tuple[str, ...]) -> list[str]:
    """What a client has read when it has got so many tokens; plain decoding emits one at a time."""
    heads = [""]
    async for event in client.call(**request, stop=stops):
        if event.HasField("tokens"):
            assert len(event.tokens.ids) == 1
            heads.append(heads[-1] + event.tokens.text)
    return heads


async def test_outcomes_of_segments_add_up_to_the_total(start):
    client = await start()
    plain = await client.generate(max_tokens=60, segment_tokens=7, speculation=OFF)
    assert [outcome.tokens for outcome in plain.outcomes] == [7] * 8 + [4]
    await Drafter(knows(plain.ids)).connect(client)
    answer = await client.generate(max_tokens=60, segment_tokens=7)
    total = answer.finished.total
    for name in ("tokens", "steps", "nodes"):
        assert sum(getattr(outcome, name) for outcome in answer.outcomes) == getattr(total, name)
    for name in ("verify_s", "plain_s", "wait_s", "prefill_s", "elapsed_s"):
        assert sum(getattr(outcome, name) for outcome in answer.outcomes) == pytest.approx(getattr(total, name))
    assert total.elapsed_s >= total.prefill_s > 0
    assert plain.finished.total.plain_s == pytest.approx(59 * 0.02)
    assert total.steps * 0.02 < total.plain_s <= 59 * 0.02 + 1e-9
    accepted = [credit.accepted for outcome in answer.outcomes for credit in outcome.drafters]
    assert sum(accepted) == total.drafters[0].accepted


class Trainer(trainer_pb2_grpc.TrainerServicer):
    def __init__(self) -> None:
        self.lessons: list[trainer_pb2.Lesson] = []

    async def Submit(self, request: Any, context: Any) -> trainer_pb2.SubmitResponse:
        self.lessons += request.lessons
        return trainer_pb2.SubmitResponse(stored=len(request.lessons))


async def test_lessons_reach_the_trainer_in_shape_and_never_of_who_opted_out(start):
    trainer, server = Trainer(), grpc.aio.server()
    trainer_pb2_grpc.add_TrainerServicer_to_server(trainer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = await start(trainer=f"127.0.0.1:{port}")
    secret = await client.generate(no_store=True, sampling=HOT)
    plain = await client.generate(max_tokens=300, speculation=OFF)
    await Drafter(knows(plain.ids)).connect(client)
    fast = await client.generate(max_tokens=60, sampling=GREEDY, tenant="t")
    await eventually(lambda: len(trainer.lessons) == 3)
    whole, rest, taught = trainer.lessons
    assert (len(whole.tokens), len(rest.tokens)) == (256, 44)
    assert [*whole.tokens, *rest.tokens] == plain.ids
    assert list(whole.context) == list(PROMPT)
    assert list(rest.context) == [*PROMPT, *plain.ids[:256]]
    assert not any(whole.accepted)
    assert (taught.model, taught.tenant, list(taught.drafter_ids)) == ("tiny", "t", ["d1"])
    assert taught.tokenizer_hash == client.verifier.state.loaded.target.tokenizer.content_hash
    assert list(taught.tokens) == fast.ids
    assert [bool(source) for source in fast.sources] == list(taught.accepted)
    for lesson in trainer.lessons:
        assert len(lesson.lesson_id) == 16
        assert lesson.top_k == 8
        assert len(lesson.top_k_ids) == len(lesson.top_k_log_probs) == 8 * len(lesson.tokens)
        assert list(lesson.top_k_ids[::8]) == list(lesson.tokens)  # greedy: what was taken is what was likeliest
        assert all(value <= 0 for value in lesson.top_k_log_probs)
    assert secret.ids not in [list(lesson.tokens) for lesson in trainer.lessons]
    assert client.verifier.state.loaded.lessons.num_dropped == 0
    await server.stop(None)


async def test_a_trainer_that_is_away_costs_lessons_and_nothing_else(start):
    client = await start(trainer="127.0.0.1:1")
    plain = await client.generate()
    assert len(plain.ids) == 24
    await eventually(lambda: client.verifier.state.loaded.lessons.num_dropped == 1)
    assert (await client.generate()).ids == plain.ids


async def test_sessions_that_outgrow_the_cache_give_way_and_go_on_with_the_same_text(folder):
    lengths = (470, 465, 460, 455, 450, 445, 440, 435)
    async with running(folder, kv_memory_mb=1, max_sessions=8) as client:
        pool = client.engine._model.pool
        assert sum(lengths) // BLOCK_TOKENS > pool.num_blocks, "they all fit, so nobody has to give way"
        alone = [await client.generate(max_tokens=count, sampling=HOT) for count in lengths]
        assert client.engine.metrics.preemptions._value.get() == 0
        together = await asyncio.gather(*(client.generate(max_tokens=count, sampling=HOT) for count in lengths))
        assert client.engine.metrics.preemptions._value.get() > 0
        assert [answer.ids for answer in together] == [answer.ids for answer in alone]
        assert [answer.text for answer in together] == [answer.text for answer in alone]
        assert pool.num_held == 0


@pytest.mark.parametrize("device", DEVICES)
async def test_the_lean_engine_gives_the_same_text_with_drafts_garbage_and_want_of_cache(folder, device, monkeypatch):
    small = StepShape(rows=64, sessions=2, session_rows=64, wanted=64)  # so that a step can take two passes
    monkeypatch.setattr(engines, "LeanRunner", functools.partial(LeanRunner, shape=small, segment_tokens=BLOCK_TOKENS))
    prompts = [PROMPT, PROMPT[::-1], PROMPT * 3]
    async with running(folder, engine="lean", device=device, kv_memory_mb=1) as client:
        assert isinstance(client.engine._model, LeanRunner)
        pool = client.engine._model.pool
        assert pool.reserve(pool.open("", ()), (pool.num_available - 5) * BLOCK_TOKENS)
        held = pool.num_held
        asked = [
            {"token_ids": types_pb2.TokenIds(ids=prompt), "sampling": sampling, "max_tokens": 64}
            for prompt, sampling in zip(prompts, (GREEDY, HOT, HOT), strict=True)
        ]
        alone = [await client.generate(**fields, speculation=OFF) for fields in asked]
        crowded = await asyncio.gather(*(client.generate(**fields, speculation=OFF) for fields in asked))
        assert client.engine.metrics.preemptions._value.get() > 0
        assert [answer.ids for answer in crowded] == [answer.ids for answer in alone]
        drafter, liar = Drafter(knows(alone[0].ids)), Drafter(talks_garbage(2), drafter_id="d2")
        await drafter.connect(client)
        await liar.connect(client)
        together = await asyncio.gather(*(client.generate(**fields) for fields in asked))
        assert [answer.ids for answer in together] == [answer.ids for answer in alone]
        assert [answer.text for answer in together] == [answer.text for answer in alone]
        assert together[0].finished.total.steps < 40
        assert pool.num_held == held
        await drafter.leave()
        await liar.leave()
