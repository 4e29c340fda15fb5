"""From prompts to a revision: with a tiny random target, in this process and as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_targets import VOCAB, save_target, write_prompts

from paceline.trainer.models.revision import read_module
from paceline.trainer.recipes import lm_recipe, stages
from paceline.trainer.recipes.command import bootstrap, command_of
from paceline.trainer.recipes.lm_task import LmTask
from paceline.trainer.recipes.settings import BootstrapSettings
from paceline.wire.model_card import FeatureHeadCard
from paceline.wire.revision_folder import TOKENIZER, VOCABULARY, open_revision
from paceline.wire.settings import StartupError, load_settings
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

SMALL = {
    "max_tokens": 24,
    "max_prompt_tokens": 100,
    "vocabulary": 290,
    "width": 64,
    "layers": 1,
    "epochs": 1.0,
    "batch_tokens": 256,
    "held_out": 0.2,
    "threads": 1,
    "log_level": "error",
}


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The target's folder and the file of prompts."""
    folder = tmp_path_factory.mktemp("bootstrap")
    return save_target(folder / "tiny"), write_prompts(folder / "prompts.jsonl", 30)


def settings_for(made_once: tuple[Path, Path], folder: Path, recipe: str, **changed: Any) -> BootstrapSettings:
    target, prompts = made_once
    options = {**SMALL, "target": str(target), "prompts": prompts, "recipe": recipe, "out": folder / "out"}
    return BootstrapSettings(**{**options, **changed})


@pytest.mark.parametrize("recipe", ["tiny_lm", "trimmed_lm"])
def test_a_drafter_is_made(recipe: str, made_once: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    settings = settings_for(made_once, tmp_path, recipe, json=True)
    assert bootstrap(settings) == 0
    told = json.loads(capsys.readouterr().out)
    module, revision = read_module(tmp_path / "out")
    assert told["revision"] == revision.revision_id
    assert told["metrics"] == dict(revision.manifest.metrics)
    assert 0.0 <= told["metrics"]["acceptance"] <= 1.0
    assert told["metrics"]["held_out_tokens"] > 0
    assert 1.0 <= told["metrics"]["tokens_per_step_chain"] <= told["metrics"]["tokens_per_step_tree"]
    assert (revision.manifest.drafter, revision.manifest.model) == (recipe, "tiny")
    assert revision.manifest.command == command_of(settings)
    assert len(revision.manifest.data) == 64
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    if recipe == "tiny_lm":
        own = TokenizerVocabulary(revision.read(TOKENIZER).decode())
        assert own.size == revision.card.vocab_size <= 290
        assert {own.special(token) for token in range(own.size)} == {None, "<eos>", "<user>"}
    else:
        cut = np.frombuffer(revision.read(VOCABULARY), "<u4")
        assert len(cut) == revision.card.vocab_size
        assert revision.card.cut_vocabulary
        assert cut.max() < VOCAB


def test_a_head_on_hidden_states_is_made(made_once: tuple[Path, Path], tmp_path: Path) -> None:
    settings = settings_for(made_once, tmp_path, "feature_head", width=0, layers=0, vocabulary=100)
    assert bootstrap(settings) == 0
    _, revision = read_module(tmp_path / "out")
    assert isinstance(revision.card, FeatureHeadCard)
    assert revision.card.feature_layers == (1, 2, 3)
    assert revision.card.vocab_size == 100
    assert {"acceptance", "acceptance_1", "tokens_per_step"} <= set(revision.manifest.metrics)


def test_a_head_is_trained_on_from_another(made_once: tuple[Path, Path], tmp_path: Path) -> None:
    first = settings_for(made_once, tmp_path / "first", "feature_head", width=0, layers=0, vocabulary=100)
    bootstrap(first)
    readings = tmp_path / "first" / "out.work" / "readings"
    told = {"width": 0, "layers": 0, "vocabulary": 0, "readings": str(readings), "parent": first.out}
    second = settings_for(made_once, tmp_path / "second", "feature_head", **told, epochs=0.1, learning_rate=1e-6)
    bootstrap(second)
    (parent, before), (child, revision) = read_module(first.out), read_module(second.out)
    assert revision.manifest.parent == before.revision_id
    assert revision.read(VOCABULARY) == before.read(VOCABULARY)
    for one, other in zip(parent.parameters(), child.parameters(), strict=True):
        assert (one - other).detach().abs().max() < 0.05 * max(1.0, float(one.detach().abs().max()))
    with pytest.raises(StartupError, match="--vocabulary has no effect with --parent"):
        bootstrap(settings_for(made_once, tmp_path / "third", "feature_head", **told | {"vocabulary": 50}))


def test_a_parent_is_for_heads(made_once: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="--parent has no effect on tiny_lm"):
        bootstrap(settings_for(made_once, tmp_path, "tiny_lm", parent=tmp_path / "somewhere"))


def test_cross_entropy_needs_no_pass_over_the_answers(made_once: tuple[Path, Path], tmp_path: Path) -> None:
    bootstrap(settings_for(made_once, tmp_path, "tiny_lm", objective="ce"))
    assert (tmp_path / "out.work" / "answers").exists()
    assert not (tmp_path / "out.work" / "readings").exists()
    other = tmp_path / "other"
    answers = tmp_path / "out.work" / "answers"
    bootstrap(settings_for(made_once, other, "tiny_lm", objective="ce", answers=answers))
    assert not (other / "out.work" / "answers").exists()
    assert open_revision(other / "out").revision_id == open_revision(tmp_path / "out").revision_id


def test_what_is_done_is_not_done_again(
    made_once: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fails at the end, gone on with, makes what one makes that doesn't."""
    bootstrap(settings_for(made_once, tmp_path / "whole", "tiny_lm"))
    settings = settings_for(made_once, tmp_path / "torn", "tiny_lm")
    write = stages.write_revision

    def fails(*_arguments: Any, **_named: Any) -> Any:
        raise OSError(28, "No space left on device", str(settings.out))

    monkeypatch.setattr(stages, "write_revision", fails)
    with pytest.raises(StartupError, match="No space left on device; what is done is kept"):
        bootstrap(settings)
    assert not settings.out.exists()
    monkeypatch.setattr(stages, "write_revision", write)
    work = tmp_path / "torn" / "out.work"
    before = {path: path.stat().st_mtime_ns for path in work.rglob("*.parquet")}
    bootstrap(settings)
    assert before
    assert {path: path.stat().st_mtime_ns for path in work.rglob("*.parquet")} == before
    assert open_revision(settings.out).revision_id == open_revision(tmp_path / "whole" / "out").revision_id


@pytest.mark.parametrize("at", [3, 27, 38], ids=["pre-training", "at a state", "between states"])
def test_a_training_that_is_stopped_goes_on_to_the_same_weights(
    at: int, made_once: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lm_recipe, "CHECKPOINT_EVERY", 7)
    answers = tmp_path / "whole" / "out.work" / "answers"
    whole = settings_for(made_once, tmp_path / "whole", "trimmed_lm", objective="ce")
    bootstrap(whole)
    torn = settings_for(made_once, tmp_path / "torn", "trimmed_lm", objective="ce", answers=answers)
    calls, loss = 0, LmTask.loss

    def stops(task: LmTask, examples: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return loss(task, examples)

    monkeypatch.setattr(LmTask, "loss", stops)
    with pytest.raises(KeyboardInterrupt):
        bootstrap(torn)
    bootstrap(torn)
    assert calls > at
    assert open_revision(torn.out).revision_id == open_revision(whole.out).revision_id


def test_the_command_runs_as_a_process(made_once: tuple[Path, Path], tmp_path: Path) -> None:
    target, prompts = made_once
    flags = {f"--{name.replace('_', '-')}": str(value) for name, value in SMALL.items()}
    flags |= {"--target": str(target), "--prompts": str(prompts), "--recipe": "trimmed_lm", "--sources": "s0,s1"}
    words = [word for flag in flags.items() for word in flag]
    command = [sys.executable, "-m", "paceline.trainer", "bootstrap", *words, "--out", str(tmp_path / "out"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["revision"] == open_revision(tmp_path / "out").revision_id


def test_other_commands_do_not_import_torch() -> None:
    program = "import sys, paceline.trainer.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"recipe": "magic"}, "--recipe is 'magic'; it must be one of tiny_lm"),
        ({"objective": "magic"}, "--objective is 'magic'; it must be one of forward_kl"),
        ({"sources": "nowhere"}, "no prompts of these sources"),
        ({"target": "./nowhere"}, "no such folder"),
        ({"width": 65}, "width is 65; it must be a multiple of 64"),
        ({"recipe": "feature_head"}, "--width has no effect on feature_head"),
        ({"verifier": "127.0.0.1:1"}, "--verifier 127.0.0.1:1"),
        ({"answers": Path("here"), "max_prompts": 3}, "--max-prompts has no effect with --answers"),
        ({"max_tokens": 4000}, r"max_prompt_tokens \+ max_tokens is 4100"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_line(
    changed: dict[str, Any], told: str, made_once: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(StartupError, match=told):
        bootstrap(settings_for(made_once, tmp_path, **{"recipe": "tiny_lm", **changed}))
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_left_alone(made_once: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(StartupError, match="exists"):
        bootstrap(settings_for(made_once, tmp_path, "tiny_lm"))


def test_readings_of_several_folders_are_learned_from_together(made_once: tuple[Path, Path], tmp_path: Path) -> None:
    whole = settings_for(made_once, tmp_path / "whole", "trimmed_lm")
    bootstrap(whole)
    folder = tmp_path / "whole" / "out.work" / "readings"
    one = stages.Shards(folder, stages.READINGS)
    both = stages.Together([one, one])
    assert len(both) == 2 * len(one)
    assert [row.answer.id for row in both] == 2 * [row.answer.id for row in one]
    assert stages.Together([one]).sha256() == one.sha256() != both.sha256()
    twice = settings_for(made_once, tmp_path / "twice", "trimmed_lm", readings=f"{folder}, {folder}")
    bootstrap(twice)
    assert open_revision(twice.out).manifest.data == both.sha256()
    with pytest.raises(StartupError, match=r"top_k is 3, in the first folder 8"):
        stages.check_alike(folder, {"layers": [], "top_k": 3}, {"layers": [], "top_k": 8})


def test_readings_of_another_target_are_refused(made_once: tuple[Path, Path], tmp_path: Path) -> None:
    bootstrap(settings_for(made_once, tmp_path, "tiny_lm"))
    readings = tmp_path / "out.work" / "readings"
    origin = stages.Shards(readings, stages.READINGS).origin
    target = stages.load_target(str(made_once[0]), "float32", 1)
    stages.check_readings(readings, origin, target, ())
    with pytest.raises(StartupError, match="tokenizer_hash"):
        stages.check_readings(readings, {**origin, "tokenizer_hash": "0" * 64}, target, ())
    with pytest.raises(StartupError, match="hidden states"):
        stages.check_readings(readings, origin, target, (1, 2))


def test_the_command_that_is_kept_makes_the_same_again(made_once: tuple[Path, Path], tmp_path: Path) -> None:
    settings = settings_for(made_once, tmp_path, "tiny_lm", objective="pld", sources="s0, s1")
    command = command_of(settings)
    assert str(tmp_path) not in command.replace(settings.target, "")
    words = command.partition(" #")[0].split()[2:]
    assert "--objective" in words
    assert "'s0," in words


def test_flags_are_read_as_told() -> None:
    flags = ["--target", "t", "--prompts", "p", "--recipe", "tiny_lm", "--out", "o", "--held-out", "0.1", "--json"]
    settings = load_settings(BootstrapSettings, flags, "bootstrap")
    assert (settings.held_out, settings.json_output, settings.weights) == (0.1, True, "bfloat16")
