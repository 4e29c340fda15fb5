"""The training loop goes on as if nothing had happened, and finds its way back when something has."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from small_task import SETTINGS, SmallTask, small_module, weights_of

from paceline.trainer.training.loop import MAX_ROLLBACKS, LoopSettings, Trained, Watch, train
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError

torch.set_num_threads(1)


def learn(
    folder: Path,
    settings: LoopSettings = SETTINGS,
    broken: Mapping[int, float] | None = None,
    watch: Watch | None = None,
    name: str = "small",
) -> tuple[torch.Tensor, Trained]:
    module = small_module()
    task = SmallTask(module, dict(broken or {}), name=name)
    trained = train(module, task, settings, folder, accelerator=Accelerator(cpu=True), watch=watch)
    return weights_of(module), trained


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_the_loss_falls(tmp_path: Path) -> None:
    _, trained = learn(tmp_path, replace(SETTINGS, num_steps=200))
    losses = [line["loss"] for line in log_of(tmp_path) if "loss" in line]
    assert trained.num_steps == len(losses) == 200
    assert sum(losses[-20:]) < sum(losses[:20]) / 2


def test_a_run_in_two_parts_ends_like_one(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(step: int) -> Mapping[str, float]:
        if step == 15:
            raise Stopped
        return {}

    whole, _ = learn(tmp_path / "whole")
    with pytest.raises(Stopped):
        learn(tmp_path / "parts", watch=stop)
    parts, _ = learn(tmp_path / "parts")
    assert torch.equal(whole, parts)
    for name in ("whole", "parts"):
        assert [line["step"] for line in log_of(tmp_path / name) if "loss" in line] == list(range(1, 31))


def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    program = [sys.executable, str(Path(__file__).with_name("small_task.py")), str(tmp_path / "killed"), "30", "0.05"]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(program, env={**os.environ, "PYTHONPATH": path}) as process:
        while not list((tmp_path / "killed").glob("state-00000010")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    (tmp_path / "killed" / ".state-torn").mkdir()
    with (tmp_path / "killed" / "log.jsonl").open("a") as file:
        file.write('{"step": 1')
    killed, _ = learn(tmp_path / "killed")
    whole, _ = learn(tmp_path / "whole")
    assert torch.equal(killed, whole)
    assert not list((tmp_path / "killed").glob(".state-*"))
    assert len(list((tmp_path / "killed").glob("state-*"))) == 2


@pytest.mark.parametrize("factor", [math.nan, math.inf, 1e4])
def test_a_loss_that_diverges_is_rolled_back(tmp_path: Path, factor: float) -> None:
    class Once(dict[int, float]):
        """The factor is there the first time only, as if the learning rate had been to blame."""

        def get(self, key: int, default: float) -> float:  # type: ignore[override]
            return self.pop(key, default)

    module = small_module()
    trained = train(
        module, SmallTask(module, Once({23: factor})), SETTINGS, tmp_path, accelerator=Accelerator(cpu=True)
    )
    assert (trained.num_steps, trained.rollbacks) == (30, 1)
    lines = log_of(tmp_path)
    assert [line for line in lines if "diverged_at" in line] == [
        {"step": 20, "seconds": lines[20]["seconds"], "diverged_at": 23, "rate_scale": 0.5}
    ]
    assert lines[21]["rate"] == pytest.approx(SETTINGS.rate(20) / 2, rel=1e-4)
    assert torch.isfinite(weights_of(module)).all()


def test_a_loss_that_keeps_diverging_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(PacelineError, match="diverged at step 12"):
        learn(tmp_path, broken={12: math.nan})
    scales = [line["rate_scale"] for line in log_of(tmp_path) if "rate_scale" in line]
    assert scales == [0.5**count for count in range(1, MAX_ROLLBACKS + 1)]


def test_a_folder_goes_on_with_what_it_began(tmp_path: Path) -> None:
    learn(tmp_path, replace(SETTINGS, num_steps=5))
    with pytest.raises(StartupError, match="was learning 'small' and not 'other'"):
        learn(tmp_path, name="other")
    with pytest.raises(StartupError, match=r"another model \(see average\."):
        learn(tmp_path, replace(SETTINGS, ema_decay=0.0))
    (tmp_path / "state-00000005" / "progress.json").write_text("{}")
    with pytest.raises(StartupError, match="can't be read"):
        learn(tmp_path)


def test_what_watches_sees_averaged_weights_and_disturbs_nothing(tmp_path: Path) -> None:
    seen = {}
    module = small_module()

    def look(step: int) -> Mapping[str, float]:
        seen[step] = weights_of(module)
        return {"norm": float(seen[step].norm())}

    accelerator = Accelerator(cpu=True)
    train(module, SmallTask(module, {}), SETTINGS, tmp_path / "watched", accelerator=accelerator, watch=look)
    alone, _ = learn(tmp_path / "alone")
    assert list(seen) == [5, 10, 15, 20, 25, 30]
    assert torch.equal(seen[30], alone)
    assert [line["step"] for line in log_of(tmp_path / "watched") if "norm" in line] == list(seen)


def test_the_learning_rate_rises_then_falls() -> None:
    settings = LoopSettings(num_steps=100, learning_rate=1.0, warmup_steps=10, final_share=0.1)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.55)
    assert settings.rate(100) == pytest.approx(0.1)
