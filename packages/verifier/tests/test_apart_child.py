"""The process that loads: its answer is one JSON object whatever libraries print, and it doesn't outlive its parent."""

from __future__ import annotations

import json
import subprocess
import sys

DEADLINE_S = 60.0
RUN = """
import time
from paceline.verifier.model import apart_child
from paceline.wire.settings import StartupError

def find_target(wanted):
    print("a library's advertisement", flush=True)
    {then}

apart_child.find_target = find_target
apart_child.main()
"""
ORDER = {"wanted": {"name": "some"}, "num_threads": 1, "memory": -1}


def child(then: str) -> subprocess.Popen[bytes]:
    """A loader with its order; `then` is what looking for the model comes to."""
    command = [sys.executable, "-c", RUN.format(then=then)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, **pipes)
    process.stdin.write(json.dumps(ORDER).encode() + b"\n")
    process.stdin.flush()
    return process


def test_the_answer_is_json_whatever_is_printed():
    process = child("raise StartupError('there is none')")
    answer, said = process.stdout.read(), process.stderr.read()
    assert process.wait(DEADLINE_S) == 0
    assert json.loads(answer) == {"refused": "there is none"}
    assert b"advertisement" in said


def test_it_ends_when_nobody_waits_for_it():
    process = child("time.sleep(600.0)")
    assert process.stderr.readline() == b"a library's advertisement\n"
    process.stdin.close()
    assert process.wait(DEADLINE_S) == 1


def test_what_nobody_foresaw_ends_it_with_a_traceback():
    process = child("raise ZeroDivisionError")
    said = process.stderr.read()
    assert process.wait(DEADLINE_S) == 1
    assert b"ZeroDivisionError" in said
    assert b"Fatal Python error" not in said
