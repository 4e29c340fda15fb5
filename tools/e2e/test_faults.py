"""Processes that die, requests that are wrong, tenants that must not meet: over real processes, with a tiny model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tiny_target import CONTEXT_LENGTH, make_tiny_target

from paceline.cli.measure import Answer, ask
from paceline.cli.stack import Stack
from paceline.v1 import generation_pb2, router_pb2, router_pb2_grpc, trainer_pb2, trainer_pb2_grpc, types_pb2
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import ClientSettings
from paceline.wire.status import from_rpc_error

MAX_TOKENS = 300
DEADLINE_S = 30.0
# Slow enough that something can happen in the middle of an answer.
PROMPT = "the quick brown fox jumps over the lazy dog; once upon a time there was a small village"


def request_of(
    text: str = PROMPT,
    *,
    temperature: float = 0.8,
    seed: int = 5,
    max_tokens: int = MAX_TOKENS,
    tenant: str = "",
    no_store: bool = False,
    **speculation: object,
) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(
        text=text,
        sampling=types_pb2.Sampling(temperature=temperature, seed=seed),
        limits=types_pb2.Limits(max_tokens=max_tokens, ignore_eos=True),
        speculation=types_pb2.Speculation(**speculation),  # type: ignore[arg-type]
        tenant=tenant,
        no_store=no_store,
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_target(tmp_path_factory.mktemp("model"))


@pytest.fixture
def stack(tmp_path: Path, model: Path) -> Iterator[Stack]:
    """A router, two verifiers, a trainer and two drafters."""
    with Stack(tmp_path) as stack:
        stack.start("router", "router", "--state", f"sqlite:///{tmp_path}/router.db", "--policy", "fixed")
        stack.wait("router")
        announce = ("--router", router_of(stack))
        for name in ("verifier-1", "verifier-2"):
            stack.start(
                name, "verifier", "--model", str(model), "--model-name", "tiny", "--drafting", "always", *announce
            )
        stack.start("trainer", "trainer", "--data", str(tmp_path / "trainer"), *announce)
        for name in ("suffix", "recycling"):
            stack.start(name, "drafter", "--name", name, "--strategies", name, *announce)
        stack.wait()
        stack.wait_connected(router_of(stack), ["suffix", "recycling"], verifiers=2)
        yield stack


def router_of(stack: Stack) -> str:
    return stack.services["router"].address


def answer_of(stack: Stack, request: generation_pb2.GenerateRequest) -> Answer:
    async def asked() -> Answer:
        async with connect(router_of(stack), ClientSettings()) as channel:
            return await ask(router_pb2_grpc.RouterStub(channel), request)

    return asyncio.run(asked())


def refusal_of(stack: Stack, request: generation_pb2.GenerateRequest) -> PacelineError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        answer_of(stack, request)
    refusal = from_rpc_error(error.value)
    assert refusal is not None, error.value
    return refusal


def answer_with_interruption(
    stack: Stack, request: generation_pb2.GenerateRequest, after_tokens: int, interrupt: Callable[[str], None]
) -> tuple[list[int], str]:
    """The answer, with `interrupt(verifier_id)` called when so many tokens have come."""

    async def asked() -> tuple[list[int], str]:
        ids: list[int] = []
        text = ""
        verifier_id = ""
        done = False
        async with connect(router_of(stack), ClientSettings()) as channel:
            async for event in router_pb2_grpc.RouterStub(channel).Generate(request, timeout=60):
                verifier_id = event.started.verifier_id or verifier_id
                ids.extend(event.tokens.ids)
                text += event.tokens.text
                if len(ids) >= after_tokens and not done:
                    done = True
                    interrupt(verifier_id)
        assert done
        return ids, text

    return asyncio.run(asked())


def verifier_named(stack: Stack, verifier_id: str) -> str:
    """Which process a verifier id belongs to."""
    with grpc.insecure_channel(router_of(stack)) as channel:
        members = router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest()).members
    (address,) = [member.address for member in members if member.id == verifier_id]
    return next(name for name, service in stack.services.items() if service.address == address)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_another_verifier_takes_over_when_one_is_killed(stack: Stack, temperature: float) -> None:
    request = request_of(temperature=temperature)
    plain = answer_of(stack, request_of(temperature=temperature, off=True))
    assert len(plain.ids) == MAX_TOKENS
    killed: list[str] = []

    def kill(verifier_id: str) -> None:
        killed.append(verifier_named(stack, verifier_id))
        stack.services[killed[0]].kill()

    ids, text = answer_with_interruption(stack, request, MAX_TOKENS // 3, kill)
    assert killed
    assert ids == plain.ids
    assert text == plain.text


def test_the_answer_goes_on_when_every_drafter_is_killed(stack: Stack) -> None:
    plain = answer_of(stack, request_of(off=True))

    def kill(_verifier_id: str) -> None:
        for name in ("suffix", "recycling"):
            stack.services[name].kill()

    ids, text = answer_with_interruption(stack, request_of(), MAX_TOKENS // 3, kill)
    assert (ids, text) == (plain.ids, plain.text)
    assert answer_of(stack, request_of()).ids == plain.ids


def test_a_router_that_restarts_knows_everybody_again(stack: Stack) -> None:
    before = answer_of(stack, request_of())
    address = router_of(stack)
    stack.services["router"].kill()
    stack.start("router", "router", "--listen", address, "--state", f"sqlite:///{stack.folder}/router.db")
    stack.wait("router")
    stack.wait_connected(address, ["suffix", "recycling"], verifiers=2)
    assert answer_of(stack, request_of()).ids == before.ids


def test_lessons_reach_the_trainer_unless_the_client_says_no(stack: Stack) -> None:
    with grpc.insecure_channel(stack.services["trainer"].address) as channel:
        trainer = trainer_pb2_grpc.TrainerStub(channel)

        def lessons() -> int:
            return trainer.GetReplay(trainer_pb2.GetReplayRequest()).lessons

        deadline = time.monotonic() + DEADLINE_S
        while lessons() == 0:  # until the verifier has heard of the trainer
            assert time.monotonic() < deadline
            answer_of(stack, request_of(max_tokens=20))
        known = lessons()
        answer_of(stack, request_of("a secret", max_tokens=20, no_store=True))
        answer_of(stack, request_of("a public thing", max_tokens=20))
        while lessons() == known:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        stack.services["trainer"].kill()
    stack.start("trainer", "trainer", "--data", str(stack.folder / "trainer"))
    stack.wait("trainer")
    with grpc.insecure_channel(stack.services["trainer"].address) as channel:
        replay = trainer_pb2_grpc.TrainerStub(channel).GetReplay(trainer_pb2.GetReplayRequest())
    assert replay.lessons >= known + 1, "a lesson survives SIGKILL"


@pytest.mark.parametrize(
    ("request_", "reason", "named"),
    [
        (request_of(""), Reason.EMPTY_PROMPT, "the prompt is empty"),
        (generation_pb2.GenerateRequest(), Reason.EMPTY_PROMPT, "the prompt is empty"),
        (request_of("dog " * CONTEXT_LENGTH), Reason.PROMPT_TOO_LONG, str(CONTEXT_LENGTH)),
        (request_of(drafters=["nobody"]), Reason.UNKNOWN_DRAFTER, "nobody"),
        (request_of(temperature=-1.0), Reason.OUT_OF_RANGE, "temperature"),
        (request_of(max_tokens=CONTEXT_LENGTH), Reason.OUT_OF_RANGE, "max_tokens"),
        (request_of(max_nodes=10_000), Reason.OUT_OF_RANGE, "max_nodes"),
        (
            generation_pb2.GenerateRequest(text="x", sampling=types_pb2.Sampling(top_p=0.0)),
            Reason.OUT_OF_RANGE,
            "top_p",
        ),
        (
            generation_pb2.GenerateRequest(token_ids=types_pb2.TokenIds(ids=[10**6])),
            Reason.TOKEN_OUT_OF_VOCABULARY,
            "1000000",
        ),
        (generation_pb2.GenerateRequest(text="x", model="gpt-9"), Reason.UNKNOWN_MODEL, "gpt-9"),
    ],
)
def test_a_bad_request_fails_alone_and_clearly(
    shared: Stack, request_: generation_pb2.GenerateRequest, reason: Reason, named: str
) -> None:
    async def beside_a_good_one() -> tuple[Answer, BaseException]:
        async with connect(router_of(shared), ClientSettings()) as channel:
            stub = router_pb2_grpc.RouterStub(channel)
            good = asyncio.create_task(ask(stub, request_of(max_tokens=60)))
            bad = await asyncio.gather(ask(stub, request_), return_exceptions=True)
            return await good, bad[0]  # type: ignore[return-value]

    good, bad = asyncio.run(beside_a_good_one())
    assert len(good.ids) == 60
    assert isinstance(bad, grpc.aio.AioRpcError)
    refusal = from_rpc_error(bad)
    assert refusal is not None, bad
    assert refusal.reason is reason
    assert named in refusal.message


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Stack]:
    """A deployment that nothing is done to."""
    with Stack(tmp_path_factory.mktemp("shared")) as stack:
        stack.start("router", "router", "--state", "memory:", "--policy", "fixed")
        stack.wait("router")
        announce = ("--router", router_of(stack))
        stack.start("verifier", "verifier", "--model", str(model), "--model-name", "tiny", *announce)
        stack.start("suffix", "drafter", "--name", "suffix", "--strategies", "suffix", *announce)
        stack.wait()
        stack.wait_connected(router_of(stack), ["suffix"])
        yield stack


def test_what_one_tenant_was_told_helps_that_tenant_and_no_other(shared: Stack) -> None:
    def accepted(tenant: str) -> int:
        answer = answer_of(shared, request_of(seed=77, max_tokens=120, tenant=tenant))
        print(tenant, answer.drafters)
        return answer.drafters.get("suffix", (0, 0))[1]

    # A busy machine makes drafts late, which costs any one answer a few tokens: so several tenants, each new to it.
    answers = []
    for tenant in ("alice", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan"):
        answers.append((accepted(tenant), accepted(tenant)))
        if len(answers) >= 3 and max(again for _, again in answers) > 100:
            break
    stranger = accepted("bob")
    assert max(again for _, again in answers) > 100, "the same answer again is drafted from memory"
    # Without memory a session drafts from its own text alone, as each tenant's first did; timing moves it a little.
    assert max(first for first, _ in answers) < 80
    assert stranger < 80


def test_a_client_that_leaves_frees_its_place(shared: Stack) -> None:
    async def leave_early() -> None:
        async with connect(router_of(shared), ClientSettings()) as channel:
            calls = [
                router_pb2_grpc.RouterStub(channel).Generate(request_of(max_tokens=900, seed=seed)) for seed in range(8)
            ]
            for call in calls:
                while not (await call.read()).tokens.ids:
                    pass
            for call in calls:
                call.cancel()
            async with asyncio.timeout(5.0):
                assert len((await ask(router_pb2_grpc.RouterStub(channel), request_of(max_tokens=10))).ids) == 10

    asyncio.run(leave_early())
