"""Revisions from the trainer to the drafter and back: one that is better takes over, one that is worse is withdrawn.

Meanwhile every answer is what the target alone says.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tiny_target import make_tiny_target
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from paceline.cli.stack import Stack
from paceline.drafter.models.export import ExportSettings, export
from paceline.v1 import generation_pb2, router_pb2, router_pb2_grpc, trainer_pb2, trainer_pb2_grpc, types_pb2
from paceline.wire.channel import connect
from paceline.wire.revision_folder import open_revision, seal
from paceline.wire.settings import ClientSettings

LINE = "tiny"
DRAFTER = "d-1"
MAX_TOKENS = 48
DEADLINE_S = 240.0


@dataclass(frozen=True)
class Deployment:
    stack: Stack
    good: Path
    bad: Path
    first: str

    def address(self, name: str) -> str:
        return self.stack.services[name].address


def make_bad_model(folder: Path, target: Path) -> Path:
    """Random weights with the target's tokenizer: hardly ever right, and as slow as the good one."""
    torch.manual_seed(11)
    config = LlamaConfig.from_pretrained(target)
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(target).save_pretrained(folder)
    return folder


def make_revision(model: Path, out: Path) -> Path:
    export(ExportSettings.model_validate({"model": str(model), "out": out, "quantize": "none"}))
    return sealed(out, "export")


def sealed(folder: Path, command: str) -> Path:
    """As a revision of the line, made by that command."""
    manifest = trainer_pb2.RevisionManifest()
    manifest.CopyFrom(open_revision(folder).manifest)
    manifest.drafter, manifest.command = LINE, command
    seal(folder, manifest)
    return folder


def publish(trainer: str, folder: Path) -> str:
    command = [sys.executable, "-m", "paceline.trainer", "publish", "--trainer", trainer, "--folder", str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("revisions")
    target = make_tiny_target(folder / "target")
    bad_model = make_bad_model(folder / "bad-model", target)
    good = make_revision(target, folder / "good")
    first = make_revision(bad_model, folder / "first")
    bad = sealed(shutil.copytree(first, folder / "bad"), "the same again")
    with Stack(folder / "stack") as stack:
        stack.start("trainer", "trainer", "--data", str(folder / "data"))
        trial = ("--trial-every", "2", "--trial-segments", "12", "--segment-tokens", "16")
        stack.start("router", "router", "--state", "memory:", "--policy", "fixed", *trial)
        stack.wait("router", "trainer")
        router, trainer = (stack.services[name].address for name in ("router", "trainer"))
        verifier = ("--model", str(target), "--model-name", "tiny", "--drafting", "always")
        stack.start("verifier", "verifier", *verifier, "--router", router)
        name = publish(trainer, first)
        line = ("--trainer", trainer, "--line", LINE, "--revision-cache", str(folder / "cache"))
        model = ("--strategies", "onnx_lm", "--threads", "1", "--tree", "chain", "--stopping", "fixed:4")
        stack.start("drafter", "drafter", "--drafter-id", DRAFTER, *line, *model, "--router", router)
        stack.wait()
        yield Deployment(stack, good, bad, name)


def request_of(number: int, **speculation: bool) -> generation_pb2.GenerateRequest:
    return generation_pb2.GenerateRequest(
        text="the quick brown fox",
        sampling=types_pb2.Sampling(temperature=0.8, seed=number % 5),
        limits=types_pb2.Limits(max_tokens=MAX_TOKENS),
        speculation=types_pb2.Speculation(**speculation),
    )


async def drafters(router: router_pb2_grpc.RouterStub) -> dict[str, router_pb2.Member]:
    status = await router.GetStatus(router_pb2.GetStatusRequest())
    return {member.id: member for member in status.members if member.role == router_pb2.ROLE_DRAFTER}


async def ids_of(router: router_pb2_grpc.RouterStub, request: generation_pb2.GenerateRequest) -> list[int]:
    return [token async for event in router.Generate(request, timeout=60.0) for token in event.tokens.ids]


class Traffic:
    """Answers requests until something holds, and checks each answer."""

    def __init__(self, router: router_pb2_grpc.RouterStub, trainer: trainer_pb2_grpc.TrainerStub) -> None:
        self.router = router
        self.trainer = trainer
        self.plain: dict[int, list[int]] = {}
        self.number = 0
        self.tried: set[str] = set()

    async def one(self) -> None:
        self.number += 1
        seed = self.number % 5
        if seed not in self.plain:
            self.plain[seed] = await ids_of(self.router, request_of(seed, off=True))
        assert await ids_of(self.router, request_of(self.number)) == self.plain[seed]

    async def until(self, revision: str, withdrawn: str = "") -> None:
        """Until the drafter has that revision, nobody is on trial, and another was withdrawn."""
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            await self.one()
            known = await drafters(self.router)
            self.tried |= {member.revision for member in known.values() if member.trial_of == DRAFTER}
            listed = await self.trainer.ListRevisions(trainer_pb2.ListRevisionsRequest(drafter=LINE))
            gone = {item.revision_id for item in listed.revisions if item.withdrawn}
            if set(known) == {DRAFTER} and known[DRAFTER].revision == revision and gone == {withdrawn} - {""}:
                return
        raise AssertionError(f"{revision} is not at work: {known}")


async def test_what_is_better_takes_over_and_what_is_worse_is_withdrawn(deployment: Deployment) -> None:
    settings = ClientSettings()
    trainer = deployment.address("trainer")
    async with connect(deployment.address("router"), settings) as to_router, connect(trainer, settings) as to_trainer:
        traffic = Traffic(router_pb2_grpc.RouterStub(to_router), trainer_pb2_grpc.TrainerStub(to_trainer))
        await asyncio.to_thread(deployment.stack.wait_connected, deployment.address("router"), ["onnx_lm"])
        await traffic.until(deployment.first)
        good = await asyncio.to_thread(publish, trainer, deployment.good)
        await traffic.until(good)
        assert traffic.tried == {good}
        bad = await asyncio.to_thread(publish, trainer, deployment.bad)
        await traffic.until(good, withdrawn=bad)
        assert traffic.tried == {good, bad}
        deployment.stack.services["trainer"].kill()
        for _ in range(5):
            await traffic.one()
