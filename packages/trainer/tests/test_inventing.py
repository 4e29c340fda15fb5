"""Prompts that a target makes up: which ones, how they lie in the file, and what is no prompt."""

from __future__ import annotations

import asyncio
import fcntl
import json
from pathlib import Path
from typing import Any

import pytest
from played_verifier import Event, Verifier, serving, told
from tiny_targets import EOS, LETTERS, save_target, tiny_target

from paceline.trainer.data.inventing import MARK, Inventing, user_turn
from paceline.trainer.data.prompts import Message, read_prompts
from paceline.trainer.data.target import Target
from paceline.trainer.recipes.invention import run
from paceline.trainer.recipes.settings import InventSettings
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError

STOP, LENGTH = generation_pb2.FINISH_REASON_STOP, generation_pb2.FINISH_REASON_LENGTH
IDS = {letter: 2 + place for place, letter in enumerate(LETTERS)}


def said(text: str, finish: int = STOP) -> list[Event]:
    ids = [IDS["Ġ" if letter == " " else letter] for letter in text] + ([EOS] if finish == STOP else [])
    return [
        Event(tokens=generation_pb2.Tokens(ids=ids)),
        Event(finished=generation_pb2.Finished(reason=finish)),
    ]


def speaks(request: Any) -> list[Event]:
    """Something that depends on prompt and seed; one in five is cut off."""
    number = (sum(request.token_ids.ids) + request.sampling.seed) % 9973
    if request.sampling.temperature and number % 5 == 0:
        return said(f"cut off at {number}", LENGTH)
    return said(f"tell me of {number}" if request.sampling.temperature else f"that is {number}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_target(tmp_path_factory.mktemp("targets") / "tiny")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return tiny_target(tmp_path_factory.mktemp("targets") / "tiny")


async def invented(folder: Path, target: Target, out: Path, verifier: Verifier | None = None, **changed: Any) -> int:
    async with serving(verifier or Verifier(told(target), speaks)) as address:
        options = {"target": str(folder), "verifier": address, "out": out, "count": 20, "at_once": 4, **changed}
        return await asyncio.to_thread(run, InventSettings(**options))


async def test_prompts_are_made_up(folder: Path, target: Target, tmp_path: Path) -> None:
    verifier = Verifier(told(target), speaks)
    assert await invented(folder, target, tmp_path / "out.jsonl", verifier) == 20
    prompts = read_prompts(tmp_path / "out.jsonl")
    assert len({prompt.messages for prompt in prompts}) == 20
    assert all(prompt.source == "invented" and len(prompt.messages) == 1 for prompt in prompts)
    assert all(prompt.messages[0].content.startswith("tell me of ") for prompt in prompts)
    assert {request.sampling.temperature for request in verifier.requests} == {0.8}
    assert len({request.sampling.seed for request in verifier.requests}) == len(verifier.requests)
    assert all(request.no_store for request in verifier.requests)


async def test_how_many_go_on_at_once_and_where_it_is_stopped_change_nothing(
    folder: Path, target: Target, tmp_path: Path
) -> None:
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    await invented(folder, target, whole, count=30, at_once=1, max_turns=3)
    await invented(folder, target, torn, count=13, at_once=8, max_turns=3)
    with torn.open("ab") as file:
        file.write(b'{"id": "invented-0-0000')  # killed while writing
    assert await invented(folder, target, torn, count=30, at_once=8, max_turns=3) == 30
    assert torn.read_bytes() == whole.read_bytes()
    assert await invented(folder, target, torn, count=30) == 30  # there is nothing left to do
    assert torn.read_bytes() == whole.read_bytes()


async def test_conversations_have_answers_between_questions(folder: Path, target: Target, tmp_path: Path) -> None:
    verifier = Verifier(told(target), speaks)
    await invented(folder, target, tmp_path / "out.jsonl", verifier, max_turns=2, count=40)
    prompts = read_prompts(tmp_path / "out.jsonl")
    lengths = [len(prompt.messages) for prompt in prompts]
    assert set(lengths) == {1, 3}
    for prompt in prompts:
        roles = [message.role for message in prompt.messages]
        assert roles == ["user", "assistant", "user"][: len(roles)]
        assert all(message.content.startswith("that is") for message in prompt.messages[1:2])
    assert {request.sampling.temperature for request in verifier.requests} == {0.0, 0.8}


async def test_every_other_one_begins_with_an_opening(folder: Path, target: Target, tmp_path: Path) -> None:
    (tmp_path / "openings.txt").write_text("Translate: \n\nAdd up \n")
    await invented(folder, target, tmp_path / "out.jsonl", openings=tmp_path / "openings.txt", count=40)
    words = [prompt.messages[0].content for prompt in read_prompts(tmp_path / "out.jsonl")]
    kinds = [word.split("tell")[0] for word in words]
    assert set(kinds) == {"", "Translate: ", "Add up "}
    assert 10 <= kinds.count("") <= 30


async def test_another_seed_makes_others(folder: Path, target: Target, tmp_path: Path) -> None:
    await invented(folder, target, tmp_path / "0.jsonl")
    await invented(folder, target, tmp_path / "1.jsonl", seed=1)
    assert not {p.messages for p in read_prompts(tmp_path / "0.jsonl")} & {
        p.messages for p in read_prompts(tmp_path / "1.jsonl")
    }
    with pytest.raises(StartupError, match=r"--out .*0.jsonl has a prompt 'invented-0-.*isn't of this run"):
        await invented(folder, target, tmp_path / "0.jsonl", seed=1, count=30)


async def test_a_target_that_always_says_the_same_is_told_of(folder: Path, target: Target, tmp_path: Path) -> None:
    verifier = Verifier(told(target), lambda _: said("what is it"))
    with pytest.raises(PacelineError, match=r"--count is 20; after 200 tries there are 1 different prompts"):
        await invented(folder, target, tmp_path / "out.jsonl", verifier)
    assert len(read_prompts(tmp_path / "out.jsonl")) == 1


@pytest.mark.parametrize("words", ["", "ab"])
async def test_words_that_are_none_are_left_out(words: str, folder: Path, target: Target, tmp_path: Path) -> None:
    with pytest.raises(PacelineError, match="there are 0 different"):
        await invented(folder, target, tmp_path / "out.jsonl", Verifier(told(target), lambda _: said(words)), count=1)


async def test_two_processes_do_not_write_one_file(folder: Path, target: Target, tmp_path: Path) -> None:
    with (tmp_path / "out.jsonl").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StartupError, match="another process writes to it"):
            await invented(folder, target, tmp_path / "out.jsonl")


def test_openings_that_are_none_are_refused(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    options = {"target": str(folder), "verifier": "127.0.0.1:1", "out": tmp_path / "out.jsonl"}
    with pytest.raises(StartupError, match="has 0 lines"):
        run(InventSettings(**options, openings=empty))
    with pytest.raises(StartupError, match="No such file"):
        run(InventSettings(**options, openings=tmp_path / "missing.txt"))


def test_where_the_users_words_begin(target: Target) -> None:
    ids, end = user_turn(target, [], "Once")
    assert target.tokenizer.decode(ids) == "<user>Once"
    assert end == ""
    ids, _ = user_turn(target, [Message("user", "a"), Message("assistant", "b")])
    assert target.tokenizer.decode(ids) == "<user>a<user>b<user>"


def test_words_end_where_the_template_says(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """In templates whose user's turn does not end with the token that ends an answer."""
    template = "{% for message in messages %}[INST]{{ message['content'] }}[/INST]{% endfor %}"
    monkeypatch.setattr(target.tokenizer, "chat_template", template)
    ids, end = user_turn(target, [])
    assert (target.tokenizer.decode(ids), end) == ("[INST]", "[/INST]")


@pytest.mark.parametrize("template", [None, "{{ messages[0]['content'] | upper }}", "{{ raise_exception('no') }}"])
def test_templates_that_do_not_do(template: str | None, target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target.tokenizer, "chat_template", template)
    with pytest.raises(PacelineError):
        user_turn(target, [])


def test_how_conversations_are_shared_out() -> None:
    inventing = Inventing(max_turns=3, openings=("a", "b"))
    assert [inventing.num_turns(number) for number in range(8)] == [1, 1, 2, 2, 3, 3, 1, 1]
    assert [inventing.opening(number) for number in range(6)] == ["", "a", "", "b", "", "a"]
    assert json.dumps(MARK) != MARK
