"""Hundreds of requests, many of them cancelled at any moment: what they held comes back, and memory has a limit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from prometheus import metrics_of
from prompts import PROMPTS

from paceline.cli.measure import request_for
from paceline.cli.stack import Service, Stack
from paceline.v1 import generation_pb2, router_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

KV_MB = 128
MIB = 1 << 20
BESIDE_MB = (
    400  # what the verifier may hold beside weights and cache; importing torch and transformers' tokenizers is 270
)
GROWTH_MB = 32
WARM_UP, REQUESTS, AT_ONCE = 100, 500, 12
CANCELLED = 0.4
DEADLINE_S = 60.0


@dataclass
class Counts:
    finished: int = 0
    cancelled: int = 0


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        stack.start("router", "router", "--state", "memory:", "--policy", "fixed")
        stack.wait("router")
        router = stack.services["router"].address
        limits = ("--kv-memory-mb", str(KV_MB), "--max-sessions", "8", "--metrics-listen", "127.0.0.1:0")
        stack.start("verifier", "verifier", *limits, "--router", router)
        for name in ("suffix", "recycling"):
            stack.start(name, "drafter", "--name", name, "--strategies", name, "--router", router)
        stack.wait(timeout_s=240.0)
        stack.wait_connected(router, ["suffix", "recycling"])
        yield stack


async def ask_many(router: str, count: int, seed: int) -> Counts:
    """Prompts of any length, some of which begin alike; two tenants; greedy and not; with drafters and without."""
    rng = random.Random(seed)
    counts = Counts()
    places = asyncio.Semaphore(AT_ONCE)

    def request() -> generation_pb2.GenerateRequest:
        prompt = " ".join(rng.choice(PROMPTS) for _ in range(rng.choice((1, 1, 2, 6))))
        asked = request_for(
            [("user", prompt)],
            max_tokens=rng.choice((1, 8, 24, 48)),
            temperature=rng.choice((0.0, 0.8)),
            seed=rng.randrange(1 << 30),
            speculation=rng.random() < 0.8,
        )
        asked.tenant = rng.choice(("one", "two"))
        asked.no_store = rng.random() < 0.2
        return asked

    async def ask(stub: router_pb2_grpc.RouterStub, asked: generation_pb2.GenerateRequest, cancel_s: float) -> None:
        async with places:
            call = stub.Generate(asked)
            try:
                async with asyncio.timeout(cancel_s or DEADLINE_S):
                    async for _event in call:
                        pass
                counts.finished += 1
            except TimeoutError:
                call.cancel()
                counts.cancelled += 1
                assert cancel_s, "a request that nobody cancelled takes for ever"

    async with connect(router, ClientSettings()) as channel:
        stub = router_pb2_grpc.RouterStub(channel)
        await asyncio.gather(
            *(ask(stub, request(), rng.uniform(0.001, 0.5) if rng.random() < CANCELLED else 0.0) for _ in range(count))
        )
    return counts


async def at_rest(verifier: Service) -> dict[str, float]:
    """The metrics, when nothing runs any more."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            metrics = metrics_of(verifier)
            if not metrics["paceline:num_requests_running"] and not metrics["paceline:num_requests_waiting"]:
                return metrics
            await asyncio.sleep(0.05)


def resident_mb(service: Service) -> float:
    pages = int(Path(f"/proc/{service.pid}/statm").read_text().split()[1])
    return pages * 4096 / MIB


def filled_mb(metrics: dict[str, float]) -> float:
    """How much of the cache has been written: it goes on filling after the warm-up, up to its limit."""
    return KV_MB * (metrics["paceline:kv_cache_usage_perc"] + metrics["paceline:kv_cache_remembered_perc"])


def weights_mb(verifier: Service) -> float:
    with grpc.insecure_channel(verifier.address) as channel:
        model = verifier_pb2_grpc.VerifierStub(channel).GetModel(verifier_pb2.GetModelRequest(), timeout=DEADLINE_S)
    return model.num_parameters * {"float32": 4, "bfloat16": 2}[model.dtype] / MIB


def test_slots_and_memory_come_back(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    verifier, router = stack.services["verifier"], stack.services["router"].address
    asyncio.run(ask_many(router, WARM_UP, seed=1))
    filled = filled_mb(asyncio.run(at_rest(verifier)))
    before = {name: resident_mb(service) for name, service in stack.services.items()}
    counts = asyncio.run(ask_many(router, REQUESTS, seed=2))
    metrics = asyncio.run(at_rest(verifier))
    after = {name: resident_mb(service) for name, service in stack.services.items()}
    weights = weights_mb(verifier)
    grown = {name: resident - before[name] for name, resident in after.items()}
    grown["verifier"] -= filled_mb(metrics) - filled
    with capsys.disabled():  # the figures are for everybody to see
        print(
            f"\n{REQUESTS} requests: {counts.finished} finished, {counts.cancelled} cancelled; "
            f"{metrics['paceline:num_preemptions_total']:.0f} preemptions, "
            f"{metrics['paceline:step_failures_total']:.0f} failed steps; "
            f"cache held {metrics['paceline:kv_cache_usage_perc']:.0%}, "
            f"remembered {metrics['paceline:kv_cache_remembered_perc']:.0%}\n"
            + "".join(f"{name}: {before[name]:.0f} MiB before, {after[name]:.0f} MiB after\n" for name in after)
            + f"verifier: weights {weights:.0f} + cache {KV_MB} + {after['verifier'] - weights - KV_MB:.0f} MiB, "
            f"{grown['verifier']:.0f} more than before beside the cache"
        )
    assert counts.finished + counts.cancelled == REQUESTS
    assert min(counts.finished, counts.cancelled) > REQUESTS // 10
    assert metrics["paceline:step_failures_total"] == 0.0
    assert metrics["paceline:kv_cache_usage_perc"] == 0.0
    assert max(grown.values()) <= GROWTH_MB, grown
    assert after["verifier"] <= weights + KV_MB + BESIDE_MB
