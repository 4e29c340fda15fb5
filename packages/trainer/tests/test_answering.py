"""Answers made in this process: the target's own, whatever shares the batch; resumable."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_targets import EOS, LENGTH, some_prompts, tiny_target, write_prompts

from paceline.trainer.data.answering import Asking, Question, answer, answer_all, questions, seed_of
from paceline.trainer.data.batching import batches
from paceline.trainer.data.progress import WorkBar
from paceline.trainer.data.rows import ANSWERS, Answer
from paceline.trainer.data.shards import Shards
from paceline.trainer.data.target import Target
from paceline.wire import noise
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError

ASKING = Asking(max_tokens=12, max_prompt_tokens=100, rows_per_shard=16, batch_tokens=400)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return tiny_target(tmp_path_factory.mktemp("target"))


def asked(target: Target, count: int, asking: Asking = ASKING) -> list[Question]:
    return list(questions(target, some_prompts(count), asking, set(), WorkBar("", count)))


@torch.inference_mode()
def by_hand(target: Target, question: Question, asking: Asking) -> tuple[list[int], str]:
    """Token by token, without cache, batch or padding: argmax(logits / T + gumbel(seed, position, id))."""
    ids = question.prompt_ids.tolist()
    start = len(ids)
    while len(ids) - start < asking.max_tokens:
        scores = target.model(input_ids=torch.tensor([ids])).logits[0, -1].double()
        if asking.temperature:
            drawn = noise.gumbel(question.seed, len(ids), np.arange(len(scores)))
            scores = scores / asking.temperature + torch.from_numpy(drawn)
        ids.append(int(scores.argmax()))
        if ids[-1] == EOS:
            return ids[start:], "stop"
    return ids[start:], "length"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_those_of_decoding_by_hand(target: Target, temperature: float) -> None:
    asking = Asking(12, 100, temperature, seed=3, batch_tokens=400)
    some = asked(target, 24, asking)
    found = answer(target, some, asking)
    assert [(item.answer_ids.tolist(), item.finish) for item in found] == [
        by_hand(target, question, asking) for question in some
    ]
    assert [item.id for item in found] == [question.id for question in some]


def test_some_answers_end_by_themselves_and_their_end_is_kept(target: Target) -> None:
    asking = Asking(60, 100, temperature=2.0)
    found = answer(target, asked(target, 60, asking), asking)
    ended = [item for item in found if item.finish == "stop"]
    assert 0 < len(ended) < 60
    assert all(item.answer_ids[-1] == EOS and EOS not in item.answer_ids[:-1] for item in ended)
    assert all(len(item.answer_ids) == 60 for item in found if item.finish == "length")


def test_other_seeds_draw_otherwise_and_each_prompt_has_its_own(target: Target) -> None:
    seeds = {seed_of(name, seed) for name in ("a", "b") for seed in (0, 1)}
    assert len(seeds) == 4


def test_long_prompts_are_left_out(target: Target) -> None:
    short = Asking(max_tokens=12, max_prompt_tokens=20)
    kept = asked(target, 30, short)
    assert 0 < len(kept) < 30
    assert all(len(question.prompt_ids) <= 20 for question in kept)


def plain(answers: Shards[Answer]) -> list[tuple[object, ...]]:
    return [(item.id, item.prompt_ids.tolist(), item.answer_ids.tolist(), item.finish) for item in answers]


def test_answering_goes_on_where_it_was_stopped(target: Target, tmp_path: Path) -> None:
    prompts = some_prompts(40)
    whole = answer_all(target, prompts, tmp_path / "whole", ASKING)
    parts = answer_all(target, prompts, tmp_path / "parts", ASKING)
    parts.paths[2].unlink()
    parts.paths[1].unlink()
    assert answer_all(target, prompts, tmp_path / "parts", ASKING).sha256() == whole.sha256()
    assert len(whole) == 40
    assert answer_all(target, prompts, tmp_path / "whole", ASKING).sha256() == whole.sha256()


def test_more_prompts_are_answered_behind_those_that_are_there(target: Target, tmp_path: Path) -> None:
    before = answer_all(target, some_prompts(20), tmp_path, ASKING)
    after = answer_all(target, some_prompts(30), tmp_path, ASKING)
    assert plain(after)[:20] == plain(before)
    assert len(after.ids()) == 30


def test_other_settings_need_another_folder(target: Target, tmp_path: Path) -> None:
    answer_all(target, some_prompts(2), tmp_path, ASKING)
    with pytest.raises(StartupError, match=r"seed \(0, not 1\)"):
        answer_all(target, some_prompts(2), tmp_path, Asking(12, 100, seed=1))


def test_killed_while_answering_and_gone_on_with_is_as_if_never_killed(target: Target, tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path / "prompts.jsonl", 200)
    script = (
        "import sys; from pathlib import Path; from paceline.trainer.data.target import load_target;"
        "from paceline.trainer.data.answering import Asking, answer_all;"
        "from paceline.trainer.data.prompts import read_prompts;"
        "answer_all(load_target(sys.argv[1], 'float32', 1), read_prompts(Path(sys.argv[2])), Path(sys.argv[3]),"
        "Asking(max_tokens=12, max_prompt_tokens=100, rows_per_shard=4))"
    )
    out = tmp_path / "killed"
    command = [sys.executable, "-c", script, target.name, str(prompts), str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        while not (out / "shard-00002.parquet").exists():
            assert child.poll() is None, child.stderr and child.stderr.read().decode()
            time.sleep(0.001)
        child.kill()
    asking = Asking(max_tokens=12, max_prompt_tokens=100, rows_per_shard=4)
    assert len(Shards(out, ANSWERS)) < 200
    resumed = answer_all(target, some_prompts(200), out, asking)
    whole = answer_all(target, some_prompts(200), tmp_path / "whole", asking)
    assert len(resumed) == 200
    assert resumed.sha256() == whole.sha256()


@pytest.mark.parametrize(
    ("asking", "field"),
    [
        (Asking(max_tokens=0), "max_tokens"),
        (Asking(max_tokens=200, max_prompt_tokens=LENGTH - 199), "max_prompt_tokens + max_tokens"),
        (Asking(12, 100, temperature=-0.1), "temperature"),
        (Asking(12, 100, temperature=float("nan")), "temperature"),
        (Asking(12, 100, seed=-1), "seed"),
        (Asking(12, 100, rows_per_shard=0), "rows_per_shard"),
        (Asking(12, 100, batch_tokens=0), "batch_tokens"),
    ],
)
def test_settings_out_of_bounds_are_refused_by_name(target: Target, tmp_path: Path, asking: Asking, field: str) -> None:
    with pytest.raises(PacelineError) as caught:
        answer_all(target, [], tmp_path / "out", asking)
    assert caught.value.field == field
    assert not (tmp_path / "out").exists()


def test_no_prompts_left_is_said(target: Target, tmp_path: Path) -> None:
    with pytest.raises(PacelineError, match="has no shards"):
        answer_all(target, some_prompts(3), tmp_path, Asking(max_tokens=1, max_prompt_tokens=1))


def test_batches_hold_every_text_once_and_no_more_than_fits() -> None:
    chance = np.random.default_rng(0)
    for most in (1, 10, 64, 500):
        lengths = chance.integers(1, 60, 40).tolist()
        groups = batches(lengths, most)
        assert sorted(index for group in groups for index in group) == list(range(40))
        assert all(len(group) == 1 or len(group) * max(lengths[i] for i in group) <= most for group in groups)
