"""Answers of a verifier, which is played by a servicer over a real socket."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from played_verifier import Event, Verifier, serving, told
from tiny_targets import some_prompts, tiny_target, write_prompts

from paceline.trainer.data import asking as asking_module
from paceline.trainer.data.answering import Asking, seed_of
from paceline.trainer.data.asking import ask_all, in_order
from paceline.trainer.data.rows import ANSWERS, Answer
from paceline.trainer.data.shards import Shards
from paceline.trainer.data.target import Target
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import ClientSettings, StartupError

ASKING = Asking(max_tokens=8, max_prompt_tokens=100, seed=5, rows_per_shard=10)
STOP, LENGTH = generation_pb2.FINISH_REASON_STOP, generation_pb2.FINISH_REASON_LENGTH


def tokens_for(request: Any) -> list[int]:
    return [(sum(request.token_ids.ids) + request.sampling.seed + n) % 250 for n in range(request.limits.max_tokens)]


def fine(request: Any) -> list[Event]:
    ids = tokens_for(request)
    events = [Event(started=generation_pb2.Started()), *(Event(tokens=generation_pb2.Tokens(ids=[i])) for i in ids)]
    return [*events, Event(finished=generation_pb2.Finished(reason=LENGTH if ids[0] % 2 else STOP))]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return tiny_target(tmp_path_factory.mktemp("targets") / "tiny")


async def asked(
    target: Target, verifier: Verifier, out: Path, count: int = 35, at_once: int = 4, model: str = ""
) -> Shards[Answer]:
    async with serving(verifier) as address:
        return await ask_all(target, some_prompts(count), out, ASKING, address, ClientSettings(), at_once, model)


async def test_answers_come_from_the_verifier_in_the_order_asked(target: Target, tmp_path: Path) -> None:
    verifier = Verifier(told(target), fine)
    shards = await asked(target, verifier, tmp_path)
    by_prompt = {tuple(request.token_ids.ids): request for request in verifier.requests}
    assert len(shards) == 35
    assert [len(list(Shards(tmp_path, ANSWERS)))] == [35]
    for answer in shards:
        request = by_prompt[tuple(answer.prompt_ids.tolist())]
        assert answer.answer_ids.tolist() == tokens_for(request)
        assert answer.finish == ("length" if answer.answer_ids[0] % 2 else "stop")
        assert request.sampling.seed == seed_of(answer.id, 5)
        assert (request.no_store, request.model, request.limits.max_tokens) == (True, "tiny", 8)
    assert 1 < verifier.most_running <= 4


async def test_how_many_are_asked_at_once_changes_nothing(target: Target, tmp_path: Path) -> None:
    one = await asked(target, Verifier(told(target), fine), tmp_path / "1", at_once=1)
    many = await asked(target, Verifier(told(target), fine), tmp_path / "32", at_once=32)
    assert one.sha256() == many.sha256()


async def test_what_is_answered_is_not_asked_again(target: Target, tmp_path: Path) -> None:
    await asked(target, Verifier(told(target), fine), tmp_path, count=20)
    verifier = Verifier(told(target), fine)
    assert len(await asked(target, verifier, tmp_path, count=30)) == 30
    assert len(verifier.requests) == 10


async def test_killed_while_asking_and_gone_on_with_is_as_if_never_killed(target: Target, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 200)
    script = (
        "import asyncio, sys; from pathlib import Path; from paceline.trainer.data.target import load_target;"
        "from paceline.trainer.data.answering import Asking; from paceline.trainer.data.asking import ask_all;"
        "from paceline.trainer.data.prompts import read_prompts; from paceline.wire.settings import ClientSettings;"
        "asyncio.run(ask_all(load_target(sys.argv[1], 'float32', 1), read_prompts(Path(sys.argv[2])),"
        "Path(sys.argv[3]), Asking(8, 100, seed=5, rows_per_shard=10), sys.argv[4], ClientSettings(), 2))"
    )
    out = tmp_path / "killed"
    async with serving(Verifier(told(target), fine, pause_s=0.02)) as address:
        command = [sys.executable, "-c", script, target.name, str(prompts), str(out), address]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:  # noqa: ASYNC220
            while not (out / "shard-00002.parquet").exists():
                assert child.poll() is None, child.stderr and child.stderr.read().decode()
                await asyncio.sleep(0.001)
            child.kill()
    assert len(Shards(out, ANSWERS)) < 200
    resumed = await asked(target, Verifier(told(target), fine), out, count=200)
    whole = await asked(target, Verifier(told(target), fine), tmp_path / "whole", count=200)
    assert resumed.sha256() == whole.sha256()
    assert len(resumed) == 200


async def test_a_busy_verifier_is_asked_again(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking_module, "FIRST_WAIT_S", 0.001)
    assert len(await asked(target, Verifier(told(target), fine, refuse_first=3), tmp_path, count=3)) == 3
    with pytest.raises(StartupError, match="queue full; run the same again"):
        await asked(target, Verifier(told(target), fine, refuse_first=1 << 30), tmp_path, count=5)


@pytest.mark.parametrize(("field", "value"), [("model", "other"), ("tokenizer_hash", "f" * 64), ("vocab_size", 7)])
async def test_a_verifier_with_another_target_is_refused(
    target: Target, tmp_path: Path, field: str, value: object
) -> None:
    verifier = Verifier(told(target, **{field: value}), fine)
    with pytest.raises(StartupError, match=f"its {field} is"):
        await asked(target, verifier, tmp_path)
    assert not verifier.requests


async def test_a_target_may_be_called_otherwise(target: Target, tmp_path: Path) -> None:
    shards = await asked(target, Verifier(told(target, model="mine"), fine), tmp_path, count=3, model="mine")
    assert shards.origin["model"] == "mine"


async def test_nobody_there_is_said(target: Target, tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="--verifier 127"):
        await ask_all(target, some_prompts(1), tmp_path, ASKING, "127.0.0.1:1", ClientSettings())


@pytest.mark.parametrize(
    "events",
    [
        [],
        [Event(finished=generation_pb2.Finished(reason=STOP))],
        [Event(tokens=generation_pb2.Tokens(ids=[1]))],
        [Event(tokens=generation_pb2.Tokens(ids=[1] * 9)), Event(finished=generation_pb2.Finished(reason=STOP))],
        [Event(tokens=generation_pb2.Tokens(ids=[1 << 31])), Event(finished=generation_pb2.Finished(reason=STOP))],
        [Event(tokens=generation_pb2.Tokens(ids=[1])), Event(finished=generation_pb2.Finished(reason=77))],
    ],
)
async def test_answers_that_are_none_are_refused(target: Target, tmp_path: Path, events: list[Event]) -> None:
    with pytest.raises(PacelineError) as caught:
        await asked(target, Verifier(told(target), lambda request: events), tmp_path, count=2)
    assert caught.value.reason == Reason.MALFORMED


async def test_in_order_keeps_order_and_stops_what_runs_when_one_fails() -> None:
    running = 0

    async def work(item: int) -> int:
        nonlocal running
        running += 1
        try:
            await asyncio.sleep(0.001 * (item * 7 % 5))
            if item == 30:
                raise ValueError
            if item > 30:
                await asyncio.Event().wait()
            return item
        finally:
            running -= 1

    assert [item async for item in in_order(range(20), work, 3)] == list(range(20))
    with pytest.raises(ValueError):  # noqa: PT011
        async with asyncio.timeout(20):
            _ = [item async for item in in_order(range(100), work, 3)]
    assert not running
