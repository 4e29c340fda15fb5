"""The commands of the README, with a tiny model: demo, up and chat."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from tiny_target import make_tiny_target

TOOLS = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "tools" / "demo"
DEADLINE_S = 120.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_target(tmp_path_factory.mktemp("model"))


def run(program: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / f"{program}.py"), *arguments]
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        command, capture_output=True, text=True, timeout=DEADLINE_S, **options
    )


def test_the_demo_compares_and_writes_its_figures(model: Path, tmp_path: Path) -> None:
    variables = {**os.environ, "BUILD_WORKING_DIRECTORY": str(tmp_path)}
    result = run(
        "demo", "--model", str(model), "--prompts", "2", "--max-tokens", "40", "--json", "out.json", env=variables
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "speculation on against off" in result.stdout
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["identical"] is True
    assert report["tokens"] == sum(row["tokens"] for row in report["prompts"])
    assert report["tokens_per_step"] >= 1.0
    assert report["speedup"] > 0.0
    assert set(report["drafters"]) == {"lookup"}
    assert len(report["prompts"]) == 2


def test_a_model_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    result = run("demo", "--model", str(tmp_path / "nowhere"))
    assert result.returncode == 1
    assert "no such folder" in " ".join(result.stdout.split())  # a long path is wrapped
    assert "Traceback" not in result.stdout + result.stderr


def test_up_serves_and_chat_talks_to_it(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(TOOLS / "up.py"), "--model", str(model), "--port", "0", "--state", str(tmp_path)]
    command += ["--http", "127.0.0.1:0"]
    output = tmp_path / "up.log"
    with output.open("wb") as log:
        up = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "COLUMNS": "200"})
    try:
        deadline = time.monotonic() + DEADLINE_S
        while not (found := re.search(r"--router (\S+:\d+)", output.read_text())):
            assert up.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.1)
        chat = run("chat", "--router", found[1], "--max-tokens", "20", input="Tell me something.\n\n")
        assert chat.returncode == 0, chat.stderr
        assert "20 tokens" in chat.stdout
        url = re.search(r"http://\S+/v1", output.read_text())
        assert url is not None
        with openai.OpenAI(base_url=url[0], api_key="unused") as client:
            (known,) = client.models.list().data
            done = client.completions.create(model=known.id, prompt="once upon", max_tokens=5, temperature=0)
        assert done.usage is not None
        assert done.usage.completion_tokens == 5
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0, output.read_text()
    finally:
        up.kill()
        up.wait()


def test_chat_without_a_router_says_what_is_wrong() -> None:
    result = run("chat", "--router", "127.0.0.1:1", input="Hello?\n\n")
    assert "127.0.0.1:1" in result.stderr
    assert "Traceback" not in result.stdout + result.stderr
