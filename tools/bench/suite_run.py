"""Runs a suite's parts one after another, each as a process of its own, and keeps what they leave behind.

A process each: transformers is to be measured with its own defaults, which importing the verifier changes; and what
crashes or eats the memory takes nobody else along.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from busyness import read_now, used_by_others
from origin import now
from showing import PROGRESS
from suite import PartOutcome, Record
from suite_folder import Folder

TOOLS = Path(__file__).parent
STOP_S = 60.0  # for a tool to write what it has and to end its services
LISTEN_S = 5.0  # for the last of what it said to be read
EXPLAINED = {1: "it ended with exit code 1", 130: "it was interrupted"}

Told = Callable[[str, int, int], None]  # what happens, how much of it is done, and of how much


class Interrupted(Exception):
    """Ctrl-C, or SIGTERM, came while a part was at work; its record is kept."""


def command_line(part: str, arguments: Sequence[str], folder: Folder) -> list[str]:
    """As a user would type it after `bazelw run //tools/bench:`; also what tells two runs apart."""
    return [part, *arguments, "--json", str(folder.figures(part).absolute())]


def run_part(part: str, arguments: Sequence[str], folder: Folder, tell: Told) -> PartOutcome:
    """Runs a part to its end.

    Raises:
        Interrupted: after the part has written what it had.
    """
    command = command_line(part, arguments, folder)
    folder.figures(part).unlink(missing_ok=True)
    folder.record(part).unlink(missing_ok=True)
    before, started = read_now(), now()
    code, interrupted = _run([sys.executable, str(TOOLS / f"{part}.py"), *command[1:]], folder.log(part), tell)
    others = used_by_others(before, read_now())
    error = "" if code == 0 else f"{_explained(code)}:\n{folder.last_words(part)}"
    folder.keep(
        Record(
            part=part,
            command=command,
            started=started,
            ended=now(),
            exit_code=code,
            error=error,
            others=others,
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        )
    )
    if interrupted:
        raise Interrupted
    return folder.outcome(part, "it left nothing")


def _explained(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"it was ended by {signal.Signals(-code).name}"
    return EXPLAINED.get(code, f"it ended with exit code {code}")


def _run(command: Sequence[str], log: Path, tell: Told) -> tuple[int, bool]:
    """The exit code, and whether somebody wanted to stop."""
    reading, writing = os.pipe()
    listener = threading.Thread(target=_listen, args=(reading, tell), daemon=True)
    listener.start()  # before there is anything to interrupt: a thread that was about to start can't be waited for
    with _terminated_like_interrupted(), log.open("wb") as output:
        # A session of its own, so that Ctrl-C reaches this process alone, which then asks the tool, once, to stop.
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                env=_environment({PROGRESS: str(writing)}),
                start_new_session=True,
            )
        finally:
            os.close(writing)
        try:
            return process.wait(), False
        except KeyboardInterrupt:
            return _stop(process), True
        finally:
            _end_group(process)
            listener.join(LISTEN_S)


def _stop(process: subprocess.Popen[bytes]) -> int:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(STOP_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        return -signal.SIGKILL


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """The tool and whatever services it may have left."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM and a closed terminal raise KeyboardInterrupt too, so that no services stay behind."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    """With all that this process can import."""
    roots = [str(TOOLS), *(path for path in sys.path if path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(roots)), "COLUMNS": "110", **added}


def _listen(descriptor: int, tell: Told) -> None:
    with open(descriptor, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(ValueError, KeyError, TypeError):
                said: Any = json.loads(line)
                tell(str(said["what"]), int(said["done"]), int(said["of"]))
