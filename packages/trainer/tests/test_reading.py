"""The teacher-forced pass, against transformers' own word."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_targets import HIDDEN, LAYERS, VOCAB, random_answers, tiny_target

from paceline.trainer.data import reading as reading_module
from paceline.trainer.data.reading import Wanted, read, read_all, reading_origin
from paceline.trainer.data.rows import ANSWERS, READINGS, Answer, Reading
from paceline.trainer.data.shards import Shards, ShardWriter
from paceline.trainer.data.target import Target
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError

ALL_LAYERS = tuple(range(LAYERS + 1))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return tiny_target(tmp_path_factory.mktemp("target"))


def origin(target: Target) -> dict[str, object]:
    return {"model": "tiny", "tokenizer_hash": target.tokenizer_hash, "vocab_size": target.vocab_size}


def write_answers(folder: Path, target: Target, answers: list[Answer]) -> Path:
    with ShardWriter(folder, ANSWERS, origin(target)) as writer:
        writer.write(answers)
    return folder


def features(reading: Reading) -> torch.Tensor:
    return torch.from_numpy(reading.features).view(torch.bfloat16)


@torch.inference_mode()
def plain(target: Target, answer: Answer) -> tuple[torch.Tensor, torch.Tensor]:
    """One text alone: hidden states [length, layers + 1, hidden], the last one after the norm; log-probabilities."""
    ids = torch.from_numpy(np.concatenate([answer.prompt_ids, answer.answer_ids]))[None].long()
    out = target.model(input_ids=ids, output_hidden_states=True)
    return torch.stack([state[0] for state in out.hidden_states], 1), out.logits[0].log_softmax(-1)


def test_top_tokens_are_those_of_the_target_at_each_answer_position(target: Target) -> None:
    answers = random_answers(20)
    for answer, found in zip(answers, read(target, answers, Wanted(top_k=5, batch_tokens=200)), strict=True):
        start = len(answer.prompt_ids) - 1
        expected = plain(target, answer)[1][start : start + len(answer.answer_ids)].topk(5)
        np.testing.assert_array_equal(found.top_ids, expected.indices.numpy())
        np.testing.assert_allclose(found.top_log_probs, expected.values.numpy(), atol=2e-3, rtol=2e-3)
        assert found.features.size == 0


def test_all_of_the_vocabulary_has_mass_one(target: Target) -> None:
    for found in read(target, random_answers(3), Wanted(top_k=VOCAB)):
        np.testing.assert_allclose(np.exp(found.top_log_probs.astype(np.float64)).sum(1), 1.0, atol=1e-3)


def test_features_are_the_hidden_states_and_the_last_is_before_the_norm(target: Target) -> None:
    answers = random_answers(12)
    wanted = Wanted(layers=ALL_LAYERS, window=6, batch_tokens=150)
    for answer, found in zip(answers, read(target, answers, wanted), strict=True):
        assert found.first == max(0, len(answer.prompt_ids) - 6)
        assert found.features.shape == (len(answer) - found.first, LAYERS + 1, HIDDEN)
        own = features(found).float()
        expected = plain(target, answer)[0][found.first :]
        torch.testing.assert_close(own[:, :LAYERS], expected[:, :LAYERS], rtol=1e-2, atol=1e-2)
        assert not torch.allclose(own[:, LAYERS], expected[:, LAYERS], rtol=1e-1, atol=1e-1)
        torch.testing.assert_close(target.model.model.norm(own[:, LAYERS]), expected[:, LAYERS], rtol=2e-2, atol=2e-2)


def test_layers_come_in_the_order_asked_for(target: Target) -> None:
    answers = random_answers(3)
    up, down = (read(target, answers, Wanted(layers=layers)) for layers in ((0, 2), (2, 0)))
    for one, other in zip(up, down, strict=True):
        np.testing.assert_array_equal(one.features[:, ::-1], other.features)


def test_a_window_of_zero_keeps_the_answers_positions(target: Target) -> None:
    answer = random_answers(1)[0]
    found = read(target, [answer], Wanted(layers=(1,), window=0))[0]
    assert found.first == len(answer.prompt_ids)
    assert len(found.features) == len(answer.answer_ids)


def test_logits_are_never_there_for_a_whole_text(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "HEAD_ROWS", 7)
    seen: list[int] = []
    logits = Target.logits
    monkeypatch.setattr(Target, "logits", lambda self, final: seen.append(len(final)) or logits(self, final))
    answers = random_answers(5)
    read(target, answers, Wanted())
    assert max(seen) <= 7
    assert sum(seen) == sum(len(answer.answer_ids) for answer in answers)


def test_no_hook_is_left_behind(target: Target) -> None:
    def count() -> list[tuple[int, int]]:
        blocks = target.model.get_decoder().layers
        return [(len(block._forward_hooks), len(block._forward_pre_hooks)) for block in blocks]

    before = count()
    read(target, random_answers(1), Wanted(layers=ALL_LAYERS))
    assert count() == before


def test_reading_goes_on_where_it_was_stopped(target: Target, tmp_path: Path) -> None:
    answers = random_answers(40)
    wanted = Wanted(layers=(1, 3), window=4, rows_per_shard=8)
    folder = write_answers(tmp_path / "answers", target, answers)
    whole = read_all(target, folder, tmp_path / "whole", wanted)
    with ShardWriter(tmp_path / "parts", READINGS, reading_origin(origin(target), target, wanted)) as writer:
        writer.write(read(target, answers[:8], wanted))
    parts = read_all(target, folder, tmp_path / "parts", wanted)
    assert len(whole) == 40
    assert parts.sha256() == whole.sha256()


def test_shards_are_bounded_in_bytes(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading_module, "SHARD_BYTES", 20_000)
    folder = write_answers(tmp_path / "answers", target, random_answers(20))
    shards = read_all(target, folder, tmp_path / "out", Wanted(layers=ALL_LAYERS, rows_per_shard=1000))
    total = sum(row.features.nbytes for row in shards)
    assert len(shards) == 20
    assert len(shards.paths) >= total / 20_000 > 1


def test_killed_while_reading_and_gone_on_with_is_as_if_never_killed(target: Target, tmp_path: Path) -> None:
    write_answers(tmp_path / "answers", target, random_answers(300))
    script = (
        "import sys; from pathlib import Path; from paceline.trainer.data.target import load_target;"
        "from paceline.trainer.data.reading import Wanted, read_all;"
        "read_all(load_target(sys.argv[1], 'float32', 1), Path(sys.argv[2]), Path(sys.argv[3]),"
        "Wanted(layers=(1, 3), window=4, rows_per_shard=4))"
    )
    out = tmp_path / "killed"
    command = [sys.executable, "-c", script, target.name, str(tmp_path / "answers"), str(out)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        while not (out / "shard-00002.parquet").exists():
            assert child.poll() is None, child.stderr and child.stderr.read().decode()
            time.sleep(0.001)
        child.kill()
    wanted = Wanted(layers=(1, 3), window=4, rows_per_shard=4)
    assert len(Shards(out, READINGS)) < 300
    resumed = read_all(target, tmp_path / "answers", out, wanted)
    whole = read_all(target, tmp_path / "answers", tmp_path / "whole", wanted)
    assert len(resumed) == 300
    assert resumed.sha256() == whole.sha256()


def test_answers_of_another_target_are_refused(target: Target, tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "answers", ANSWERS, {**origin(target), "tokenizer_hash": "f" * 64}) as writer:
        writer.write(random_answers(2))
    with pytest.raises(StartupError, match="tokenizer_hash"):
        read_all(target, tmp_path / "answers", tmp_path / "out", Wanted())


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (Wanted(top_k=0), "top_k"),
        (Wanted(top_k=VOCAB + 1), "top_k"),
        (Wanted(layers=(LAYERS + 1,)), "layers"),
        (Wanted(layers=(-1,)), "layers"),
        (Wanted(layers=(0,) * 9), "layers"),
        (Wanted(window=-1), "window"),
        (Wanted(batch_tokens=0), "batch_tokens"),
        (Wanted(rows_per_shard=0), "rows_per_shard"),
    ],
)
def test_what_cant_be_wanted_is_refused_by_name(target: Target, tmp_path: Path, wanted: Wanted, field: str) -> None:
    with pytest.raises(PacelineError) as caught:
        read_all(target, tmp_path, tmp_path / "out", wanted)
    assert caught.value.field == field
