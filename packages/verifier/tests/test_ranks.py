"""Processes that belong together: none stays when another is gone, and those that end for one reason can all say it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest
import torch

from paceline.verifier.model.ranks import ALONE, Place, Ranks, place_in
from paceline.wire.settings import StartupError

DEADLINE_S = 60.0
_SCRIPT = """
import os, signal, sys, time
import torch
from paceline.verifier.model.ranks import Ranks, place_in
place = place_in(os.environ)
ranks = Ranks(place, torch.device("cpu"))
{}
"""


def end_of(script: str, size: int = 2) -> tuple[list[int], str]:
    """Exit codes of processes that run it, and what they said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(size)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _SCRIPT.format(script)],
            env={**os.environ, **master, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        said = [process.communicate(timeout=DEADLINE_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], "".join(said)


def test_the_place_is_what_torchrun_says():
    assert place_in({}) == place_in({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}) == ALONE
    assert place_in({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}) == Place(3, 4, 1)
    with pytest.raises(StartupError, match="start the processes with torchrun, or unset WORLD_SIZE"):
        place_in({"WORLD_SIZE": "2"})


def test_three_hear_what_rank_0_tells_and_part_in_order():
    codes, said = end_of(
        """
if place.rank == 0:
    ranks.lead()
    ranks.tell(3, [5, -7])
    ranks.tell(4, [])
else:
    print(ranks.hear(), ranks.hear(), ranks.hear())
ranks.leave()
""",
        size=3,
    )
    assert codes == [0, 0, 0], said
    assert said == "(3, [5, -7]) (4, []) (0, [])\n" * 2


def test_when_one_is_killed_all_others_end_whatever_they_are_stuck_in():
    codes, said = end_of("if place.rank == 2: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)", size=3)
    assert codes == [1, 1, -9], said
    assert said.count("a process that holds a part of the model is gone") == 2
    assert "Traceback" not in said


def test_those_that_end_for_the_same_reason_end_as_they_meant_to():
    codes, said = end_of("time.sleep(place.rank)\nranks.leave()\nsys.exit(3)")
    assert (codes, said) == ([3, 3], "")


def test_one_that_leaves_while_the_other_means_to_stay_ends_it():
    codes, said = end_of("time.sleep(60 * place.rank)\nranks.leave()")
    assert codes == [0, 1], said
    assert "a process that holds a part of the model has left" in said


def test_a_turn_that_fails_in_one_ends_all():
    codes, said = end_of(
        """
with ranks.together():
    if place.rank == 1:
        raise MemoryError("no room")
    ranks.tell(3, list(range(1 << 20)))
    ranks.hear()
"""
    )
    assert codes == [1, 1], said
    assert "a step failed" in said
    assert "MemoryError: no room" in said
    assert "Traceback" not in said


def test_processes_that_can_not_meet_say_where():
    with pytest.raises(StartupError, match="can't meet at MASTER_ADDR="):
        Ranks(Place(0, 2, 0), torch.device("cpu"))
