"""Training gives way to serving: on the same machine it takes what is left, and none of it when there is none."""

from __future__ import annotations

import os
import threading

import torch

from paceline.v1 import verifier_pb2

NICEST = 19


class Stopped(Exception):
    """The process was told to end; what has been learned so far is kept."""


class Yielding:
    """Holds training up between its steps. `wait` is for the training thread, the rest for any other."""

    def __init__(self) -> None:
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        self._stopped = False
        self.num_steps = 0  # that were let through

    @property
    def paused(self) -> bool:
        return not self._may_go_on.is_set()

    def pause(self) -> None:
        if not self._stopped:
            self._may_go_on.clear()

    def go_on(self) -> None:
        self._may_go_on.set()

    def stop(self) -> None:
        """`wait` raises from now on."""
        self._stopped = True
        self._may_go_on.set()

    def wait(self) -> None:
        """Returns when there is room. Raises Stopped."""
        self._may_go_on.wait()
        if self._stopped:
            raise Stopped
        self.num_steps += 1


def give_way(threads: int) -> None:
    """Bounds this process's share of the machine: so many threads compute, and only when nobody else wants to.

    SCHED_IDLE where the system has it: with a nice value alone, Linux still gives training a slice of every core now
    and then, and a step of the target waits for its slowest thread.
    """
    torch.set_num_threads(threads)
    if hasattr(os, "sched_setscheduler"):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    else:
        os.setpriority(os.PRIO_PROCESS, 0, NICEST)


def busyness(model: verifier_pb2.GetModelResponse) -> float:
    """Sessions that a verifier has, as a share of those it can run at once; above 1 if some wait."""
    return (model.active_sessions + model.queued_sessions) / max(1, model.max_sessions)
