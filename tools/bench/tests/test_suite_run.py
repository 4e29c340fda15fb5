"""Parts as processes: what they leave is kept, however they end."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import suite_run
from rounds import BenchError
from suite_folder import Folder, kept
from suite_run import Interrupted, command_line, run_part

DEADLINE_S = 60.0
START = "import json, os, signal, subprocess, sys, time\nfrom pathlib import Path\nout = Path(sys.argv[-1])\n"
WRITES = (
    'scene = {"best fixed": {"regret": 0.0, "share_of_oracle": 1.0}}\n'
    'out.write_text(json.dumps({"default_policy": "ucb", "scenes": {"a": scene}, "segments": 5, "seeds": [1]}))\n'
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    monkeypatch.setattr(suite_run, "TOOLS", tmp_path)
    (tmp_path / "work").mkdir()
    return Folder(tmp_path / "work")


def tool(folder: Folder, body: str) -> None:
    (folder.path.parent / "routing.py").write_text(START + body)


def nothing(_what: str, _done: int, _of: int) -> None:
    pass


def ended(process_id: int) -> bool:
    """Gone, or dead and not yet buried by whoever inherited it."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_figures_record_and_log_are_kept(folder: Folder) -> None:
    tool(folder, 'print("hello")\n' + WRITES)
    outcome = run_part("routing", ["--seeds", "1"], folder, nothing)
    assert (outcome.state, outcome.why) == ("done", "")
    assert outcome.record is not None
    assert outcome.record.command == ["routing", "--seeds", "1", "--json", str(folder.figures("routing"))]
    assert outcome.record.exit_code == 0
    assert outcome.record.started <= outcome.record.ended
    assert folder.log("routing").read_text() == "hello\n"


def test_progress_is_told(folder: Folder) -> None:
    body = (
        'os.environ["PACELINE_BENCH_PROGRESS"]\n'
        "from showing import told_apart\n"
        "with told_apart(3) as tell:\n"
        '    tell("first", 0); tell("second", 2)\n'
    )
    tool(folder, f"sys.path.insert(0, {os.path.dirname(suite_run.__file__)!r})\n" + body + WRITES)
    told: list[tuple[str, int, int]] = []
    outcome = run_part("routing", [], folder, lambda *said: told.append(said))
    assert outcome.state == "done", outcome.why
    assert told == [("first", 0, 3), ("second", 2, 3)]


def test_a_part_that_fails_says_its_last_words_and_keeps_its_figures(folder: Folder) -> None:
    tool(folder, WRITES + 'print("some answers differ"); sys.exit(1)')
    outcome = run_part("routing", [], folder, nothing)
    assert outcome.state == "failed"
    assert "exit code 1" in outcome.why
    assert outcome.why.endswith("some answers differ")
    assert outcome.result is not None


def test_figures_of_an_earlier_run_are_not_taken_for_those_of_one_that_failed(folder: Folder) -> None:
    folder.figures("routing").write_text("{}")
    tool(folder, "os.kill(os.getpid(), signal.SIGKILL)")
    outcome = run_part("routing", [], folder, nothing)
    assert (outcome.state, outcome.result) == ("failed", None)
    assert "SIGKILL" in outcome.why


def test_services_that_a_tool_leaves_behind_are_ended(folder: Folder) -> None:
    spawn = 'child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])\n'
    tool(folder, spawn + 'Path(out.parent / "child").write_text(str(child.pid))\n' + WRITES)
    run_part("routing", [], folder, nothing)
    child = int((folder.path / "child").read_text())
    deadline = time.monotonic() + DEADLINE_S
    while not ended(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_part_that_is_interrupted_writes_what_it_has(folder: Folder, number: signal.Signals) -> None:
    wait = 'try:\n    Path(out.parent / "ready").write_text("")\n    time.sleep(600)\nexcept KeyboardInterrupt:\n'
    tool(folder, wait + "".join(f"    {line}\n" for line in [*WRITES.splitlines(), "sys.exit(130)"]))
    ready = folder.path / "ready"

    def interrupt() -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not ready.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Interrupted):
        run_part("routing", [], folder, nothing)
    thread.join()
    outcome = folder.outcome("routing", "")
    assert outcome.state == "failed"
    assert "interrupted" in outcome.why
    assert outcome.result is not None


def test_what_was_measured_to_its_end_is_not_measured_again(folder: Folder) -> None:
    tool(folder, WRITES)
    command = command_line("routing", ["--seeds", "1"], folder)
    assert kept(folder, "routing", command) is None
    run_part("routing", ["--seeds", "1"], folder, nothing)
    found = kept(folder, "routing", command)
    assert found is not None
    assert found.state == "done"
    with pytest.raises(BenchError, match="measured with other options"):
        kept(folder, "routing", command_line("routing", ["--seeds", "2"], folder))


def test_what_was_cut_short_is_measured_again(folder: Folder) -> None:
    tool(folder, WRITES + "sys.exit(1)")
    run_part("routing", [], folder, nothing)
    assert kept(folder, "routing", command_line("routing", [], folder)) is None


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"scenes": 1e999}', "[" * 100_000, '{"scenes": {"\\ud800": {}}}', '{"seeds": ["x"]}']
)
def test_files_that_are_no_figures_fail_alone(folder: Folder, content: str) -> None:
    folder.figures("routing").write_text(content)
    outcome = folder.outcome("routing", "")
    assert outcome.state == "failed"
    assert "routing" in outcome.why
    assert len(outcome.why) < 1000


def test_the_field_that_is_wrong_is_named(folder: Folder) -> None:
    wrong = {"default_policy": "ucb", "scenes": {"a": {"ucb": {"regret": "x", "share_of_oracle": 1}}}}
    folder.figures("routing").write_text(json.dumps({**wrong, "segments": 1, "seeds": [1]}))
    assert "scenes.a.ucb.regret" in folder.outcome("routing", "").why
