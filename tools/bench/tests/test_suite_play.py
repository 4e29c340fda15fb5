"""All parts of a suite in turn, with tools that only copy figures: one that fails, one that is stopped, going on."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import suite_run
from suite import Suite
from suite_folder import Folder, read_folder
from suite_plan import QUICK, SuitePlan
from suite_play import play
from suite_results import PARTS
from suite_samples import SAMPLES

DEADLINE_S = 60.0
COPY = """import sys, time
from pathlib import Path
out = Path(sys.argv[-1])
with open(out.parent / "runs", "a") as runs:
    runs.write("{part}\\n")
{body}
out.write_text(Path({sample!r}).read_text())
"""
PLAN = SuitePlan(PARTS, QUICK, Path("/q"), Path("/p"), "tiny", "bfloat16", "suffix", "suffix", quick=True)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(suite_run, "TOOLS", tmp_path)
    (tmp_path / "work").mkdir()
    for part in PARTS:
        tool(tmp_path, part)
    return Folder(tmp_path / "work")


def tool(tools: Path, part: str, body: str = "") -> None:
    content = COPY.format(part=part, body=body, sample=str(SAMPLES / f"{part}.json"))
    (tools / f"{part}.py").write_text(content)


def runs(folder: Folder) -> list[str]:
    return (folder.path / "runs").read_text().split()


def states(suite: Suite) -> dict[str, str]:
    return {part.name: part.state for part in suite.parts}


def test_a_part_that_fails_does_not_stop_the_others_and_is_all_that_is_run_again(folder: Folder) -> None:
    tool(folder.path.parent, "acceptance", 'sys.exit("no drafters")')
    suite, interrupted = play(PLAN, folder, "bench --quick")
    assert not interrupted
    assert suite.failed
    assert states(suite) == {**dict.fromkeys(PARTS, "done"), "acceptance": "failed"}
    assert suite.parts[1].why.endswith("no drafters")
    tool(folder.path.parent, "acceptance")
    suite, _interrupted = play(PLAN, folder, "bench --quick")
    assert not suite.failed
    assert runs(folder) == [*PARTS, "acceptance"]


def test_what_was_left_out_is_known_of_the_folder_alone(folder: Folder) -> None:
    suite, _interrupted = play(replace(PLAN, parts=["routing", "adaptation"], prompts=None), folder, "bench --quick")
    assert [part.why for part in suite.parts] == [
        *["--only left it out"] * 2,
        "",
        "it needs --prompts FILE",
    ]
    again = read_folder(folder)
    assert states(again) == states(suite)
    assert (again.command, list(again.notes)) == ("bench --quick", list(suite.notes))
    assert again.notes


def test_nothing_is_begun_after_somebody_stopped_it(folder: Folder) -> None:
    wait = 'Path(out.parent / "ready").write_text("")\ntime.sleep(600)'
    tool(folder.path.parent, "acceptance", wait)

    def interrupt() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not (folder.path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=interrupt)
    thread.start()
    suite, interrupted = play(PLAN, folder, "bench")
    thread.join()
    assert interrupted
    assert states(suite) == {
        "speed": "done",
        "acceptance": "failed",
        "routing": "not run",
        "adaptation": "not run",
    }
    assert suite.parts[2].why == "the run was interrupted before it began"
    assert runs(folder) == ["speed", "acceptance"]
