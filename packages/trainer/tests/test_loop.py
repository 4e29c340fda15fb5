"""The training loop goes on as if nothing had happened, and finds its way back when something has."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from small_task import SETTINGS, SmallTask, small_module, weights_of

from paceline.trainer.training.loop import MAX_ROLLBACKS, LoopSettings, Trained, Watch, train
from paceline.trainer.training.precision import has_bfloat16
from paceline.trainer.training.rules import RULES
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


def process_of(folder: Path, seconds_a_step: float = 0.0, **environment: str) -> subprocess.Popen[bytes]:
    """The same run in a process of its own."""
    program = [sys.executable, str(Path(__file__).with_name("small_task.py")), str(folder), str(seconds_a_step)]
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(program, env={**os.environ, "PYTHONPATH": path, **environment})


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_loss_falls(tmp_path: Path, rule: str, precision: str) -> None:
    _, trained = learn(tmp_path, replace(SETTINGS, num_steps=200, rule=rule, precision=precision))
    losses = [line["loss"] for line in log_of(tmp_path) if "loss" in line]
    assert trained.num_steps == len(losses) == 200
    assert sum(losses[-20:]) < sum(losses[:20]) / 2


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_in_two_parts_ends_like_one(tmp_path: Path, rule: str, precision: str) -> None:
    settings = replace(SETTINGS, rule=rule, precision=precision)

    class Stopped(Exception):
        pass

    def stop(step: int) -> Mapping[str, float]:
        if step == 15:
            raise Stopped
        return {}

    whole, _ = learn(tmp_path / "whole", settings)
    with pytest.raises(Stopped):
        learn(tmp_path / "parts", settings, watch=stop)
    parts, _ = learn(tmp_path / "parts", settings)
    assert torch.equal(whole, parts)
    for name in ("whole", "parts"):
        assert [line["step"] for line in log_of(tmp_path / name) if "loss" in line] == list(range(1, 31))


def test_a_killed_run_ends_like_one_that_was_not(tmp_path: Path) -> None:
    with process_of(tmp_path / "killed", seconds_a_step=0.05) as process:
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


def test_two_processes_take_the_same_steps_as_one(tmp_path: Path) -> None:
    """Their gradients are added by gloo, so sums are split in another way: nothing else differs."""
    alone, _ = learn(tmp_path / "one")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    both = [
        process_of(tmp_path / "two", RANK=rank, LOCAL_RANK=rank, LOCAL_WORLD_SIZE="2", **master) for rank in ("0", "1")
    ]
    assert [process.wait(60) for process in both] == [0, 0]
    curves = [[line["loss"] for line in log_of(tmp_path / name) if "loss" in line] for name in ("one", "two")]
    assert len(curves[0]) == SETTINGS.num_steps
    assert curves[1] == pytest.approx(curves[0], rel=2e-5)
    state = load_file(max((tmp_path / "two").glob("state-*")) / "tensors.safetensors")
    together = torch.cat([state[f"average.{name}"].flatten() for name, _ in small_module().named_parameters()])
    assert torch.allclose(together, alone, rtol=1e-4, atol=1e-6)


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


def test_products_are_made_in_the_precision_that_was_asked_for(tmp_path: Path) -> None:
    exact, _ = learn(tmp_path / "exact")
    rough, _ = learn(tmp_path / "rough", replace(SETTINGS, precision="bfloat16"))
    by_itself, _ = learn(tmp_path / "auto", replace(SETTINGS, precision="auto"))
    assert exact.dtype == rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(rough, exact, rtol=0.0, atol=0.1)
    assert torch.equal(by_itself, rough if has_bfloat16(torch.device("cpu")) else exact)
    with pytest.raises(ValueError, match="precision is 'half'"):
        learn(tmp_path / "odd", replace(SETTINGS, precision="half"))


def test_the_learning_rate_rises_then_falls() -> None:
    settings = LoopSettings(num_steps=100, learning_rate=1.0, warmup_steps=10, final_share=0.1)
    rates = [settings.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.55)
    assert settings.rate(100) == pytest.approx(0.1)
