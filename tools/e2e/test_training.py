"""Drafters that are trained, in a deployment of real processes: a head on the target's states, and a line of revisions
that is refitted while it serves. Every answer is what the target alone says."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import torch
from tiny_target import make_tiny_target
from tokenizers import Tokenizer

from paceline.cli.measure import Answer, ask, request_for
from paceline.cli.stack import Stack
from paceline.trainer.models.block import BlockShape
from paceline.trainer.models.decoder import Decoder, DecoderShape
from paceline.trainer.models.feature_head import FeatureHead, FeatureHeadShape
from paceline.trainer.models.graph import decoder_card, feature_head_card
from paceline.trainer.models.revision import write_revision
from paceline.v1 import trainer_pb2, trainer_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

LINE = "tiny"
DEADLINE_S = 240.0
PROMPTS = ["the quick brown fox", "once upon a time", "numbers 0 1 2 3", "a small village by the river"]
LAYERS = (0, 1, 2)
HIDDEN = 64  # of the tiny target


class Asking:
    """Asks one verifier, with drafters or without."""

    def __init__(self, verifier: str) -> None:
        self._verifier = verifier

    async def answers(self, drafter: str, *, temperature: float, store: bool = True, rounds: int = 1) -> list[Answer]:
        """To all prompts at once, several times."""
        async with connect(self._verifier, ClientSettings()) as channel:
            stub = verifier_pb2_grpc.VerifierStub(channel)

            async def one(number: int) -> Answer:
                request = request_for(
                    [("user", f"{PROMPTS[number % len(PROMPTS)]} {number}")],
                    max_tokens=48,
                    temperature=temperature,
                    seed=number + 1,
                    speculation=bool(drafter),
                    drafters=(drafter,) if drafter else (),
                )
                request.limits.ignore_eos = True
                request.no_store = not store
                return await ask(stub, request)

            found: list[Answer] = []
            for start in range(rounds):
                found += await asyncio.gather(*(one(4 * start + number) for number in range(4)))
            return found

    async def connected(self, drafter: str) -> None:
        async with connect(self._verifier, ClientSettings()) as channel:
            stub = verifier_pb2_grpc.VerifierStub(channel)
            async with asyncio.timeout(DEADLINE_S):
                while True:
                    model = await stub.GetModel(verifier_pb2.GetModelRequest())
                    if drafter in {found.name for found in model.drafters}:
                        return
                    await asyncio.sleep(0.05)

    async def tokenizer_hash(self) -> tuple[str, int]:
        async with connect(self._verifier, ClientSettings()) as channel:
            model = await verifier_pb2_grpc.VerifierStub(channel).GetModel(verifier_pb2.GetModelRequest())
            return model.tokenizer_hash, model.vocab_size


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("training")
    make_tiny_target(folder / "target")
    with Stack(folder / "stack") as stack:
        stack.start("trainer", "trainer", "--data", str(folder / "data"))
        stack.wait("trainer")
        target = ("--model", str(folder / "target"), "--model-name", "tiny", "--drafting", "always")
        stack.start("verifier", "verifier", *target, "--trainer", stack.services["trainer"].address)
        stack.wait()
        yield stack


@pytest.fixture(scope="module")
def asking(stack: Stack) -> Asking:
    return Asking(stack.services["verifier"].address)


def same(some: list[Answer], other: list[Answer]) -> bool:
    return [(answer.ids, answer.text) for answer in some] == [(answer.ids, answer.text) for answer in other]


def write_head(folder: Path, tokenizer_hash: str, vocab_size: int) -> Path:
    """Random weights over every second token."""
    torch.manual_seed(3)
    ids = np.arange(0, vocab_size, 2)
    shape = FeatureHeadShape(
        vocab_size=len(ids),
        target_hidden_size=HIDDEN,
        num_features=len(LAYERS),
        block=BlockShape(width=32, num_heads=2, num_kv_heads=1, head_dim=16, intermediate=48),
    )
    card = feature_head_card(shape, feature_layers=LAYERS, max_length=1024, window=64, quantization="int8")
    manifest = trainer_pb2.RevisionManifest(drafter="head", model="tiny", tokenizer_hash=tokenizer_hash)
    write_revision(folder, FeatureHead(shape), card, ids.tolist(), manifest)
    return folder


async def test_a_head_drafts_from_what_the_verifier_tells_it_and_changes_no_answer(
    stack: Stack, asking: Asking, tmp_path: Path
) -> None:
    revision = write_head(tmp_path / "head", *await asking.tokenizer_hash())
    arguments = ("--strategies", "suffix,recycling,feature_head", "--revision", str(revision), "--threads", "1")
    stack.start("head", "drafter", "--name", "head", *arguments, "--verifiers", stack.services["verifier"].address)
    stack.wait("head")
    await asking.connected("head")
    for temperature in (0.0, 0.8):
        plain = await asking.answers("", temperature=temperature, rounds=3)
        drafted = await asking.answers("head", temperature=temperature, rounds=3)
        assert same(plain, drafted)
        assert sum(answer.drafters.get("head", (0, 0))[0] for answer in drafted) > 100
    assert stack.services["head"].terminate() == 0
    log = stack.services["head"].log.read_text()
    assert "error" not in log
    assert "refused" not in log


def write_first(folder: Path, target: Path, tokenizer_hash: str) -> Path:
    """A decoder that has learned nothing yet, with the target's tokenizer."""
    tokenizer = Tokenizer.from_file(str(target / "tokenizer.json"))
    shape = DecoderShape(
        vocab_size=tokenizer.get_vocab_size(),
        width=32,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        intermediate=64,
        max_length=1024,
    )
    manifest = trainer_pb2.RevisionManifest(drafter=LINE, model="tiny", tokenizer_hash=tokenizer_hash, command="made")
    card = decoder_card(shape, quantization="int8")
    write_revision(folder, Decoder(shape), card, tokenizer.to_str(), manifest, weights="bfloat16")
    return folder


async def test_a_line_gets_better_while_it_serves_whatever_is_killed(
    stack: Stack, asking: Asking, tmp_path: Path
) -> None:
    trainer, verifier = stack.services["trainer"].address, stack.services["verifier"].address
    tokenizer_hash, _ = await asking.tokenizer_hash()
    first = write_first(tmp_path / "first", tmp_path_of(stack) / "target", tokenizer_hash)
    published = stack.spawn_plain(
        "publish", "-m", "paceline.trainer", "publish", "--trainer", trainer, "--folder", str(first)
    )
    assert published.process.wait(60) == 0
    del stack.services["publish"]
    chain = ("--strategies", "onnx_lm", "--tree", "chain", "--stopping", "fixed:3", "--threads", "1")
    line = ("--trainer", trainer, "--line", LINE, "--revision-cache", str(tmp_path / "cache"))
    stack.start("line", "drafter", "--name", "line", *chain, *line, "--verifiers", verifier)
    stack.wait("line")
    await asking.connected("line")
    refit = ("-m", "paceline.trainer", "refit", "--trainer", trainer, "--verifier", verifier, "--line", LINE)
    refit += ("--work", str(tmp_path / "refit"), "--schedule", "interval", "--interval-tokens", "1500")
    refit += ("--learning-rate", "0.01", "--passes", "6", "--batch-tokens", "512", "--poll-s", "0.05")
    stack.spawn_plain("refit", *refit)
    before = accepted(await asking.answers("line", temperature=0.0, store=False, rounds=2))
    killed = False
    async with asyncio.timeout(DEADLINE_S):
        while len(await revisions(trainer)) < 3:
            plain = await asking.answers("", temperature=0.0, store=False, rounds=2)
            assert same(plain, await asking.answers("line", temperature=0.0, rounds=2))
            if not killed and (tmp_path / "refit" / "job" / "job.json").exists():
                killed = True
                stack.services["refit"].process.send_signal(signal.SIGKILL)
                stack.services["refit"].process.wait()
                stack.spawn_plain("refit", *refit)
    assert killed
    newest = (await revisions(trainer))[0]
    await until(lambda: newest.revision_id[:12] in stack.services["line"].log.read_text())
    after = accepted(await asking.answers("line", temperature=0.0, store=False, rounds=2))
    assert after > before
    assert newest.manifest.metrics["acceptance"] > newest.manifest.metrics["acceptance_before"]


async def test_what_must_not_be_stored_never_comes_to_the_trainer(stack: Stack, asking: Asking) -> None:
    async def lessons() -> int:
        async with connect(stack.services["trainer"].address, ClientSettings()) as channel:
            stub = trainer_pb2_grpc.TrainerStub(channel)
            return (await stub.GetReplay(trainer_pb2.GetReplayRequest())).lessons

    before = await lessons()
    await asking.answers("", temperature=0.0, store=False, rounds=2)
    await asking.answers("", temperature=0.0, store=True)
    async with asyncio.timeout(DEADLINE_S):
        while await lessons() < before + 4:
            await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    assert await lessons() == before + 4


def tmp_path_of(stack: Stack) -> Path:
    return stack.folder.parent


def accepted(answers: list[Answer]) -> int:
    return sum(answer.drafters.get("line", (0, 0))[1] for answer in answers)


async def revisions(trainer: str) -> list[trainer_pb2.Revision]:
    async with connect(trainer, ClientSettings()) as channel:
        stub = trainer_pb2_grpc.TrainerStub(channel)
        try:
            found = await stub.ListRevisions(trainer_pb2.ListRevisionsRequest(drafter=LINE))
        except grpc.aio.AioRpcError as error:
            raise AssertionError(error.details()) from error
        return list(found.revisions)


async def until(holds: object) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
