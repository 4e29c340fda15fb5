"""The processes that hold one model together: `torchrun` starts them, rank 0 leads, the others do as it says.

None of them is of use without the others. So they watch one another, over connections that carry nothing until the
end: one that breaks without a farewell means that the process behind it is gone, and then this one ends as well, at
once and with exit code 1, whatever collective it is stuck in. Whoever started them starts all of them again.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import structlog
import torch
import torch.distributed as dist

from paceline.wire.settings import StartupError

log = structlog.get_logger()

LEADER = 0
LOADING = timedelta(hours=2)  # how far apart processes may be when their first step needs all of them
EVER = timedelta(days=3650)  # the next order may take its time; a process that is gone is noticed without a timeout
PARTING_S = 5.0  # between the farewells of processes that end for the same reason
END = 0  # the order after which no other comes
_HEADER = 2  # numbers: the order, and how many numbers follow


@dataclass(frozen=True, slots=True)
class Place:
    """Which process this is: `rank` of `size`, the one numbered `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0


ALONE = Place()


def place_in(environment: Mapping[str, str]) -> Place:
    """As torchrun tells its processes in WORLD_SIZE, RANK and LOCAL_RANK; without them, alone.

    Raises:
        StartupError: some of them are missing or no numbers.
    """
    if environment.get("WORLD_SIZE", "1") == "1":
        return ALONE
    try:
        size, rank, local_rank = (int(environment[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    except (KeyError, ValueError) as error:
        raise StartupError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']!r}, so RANK and LOCAL_RANK must be numbers too; start the "
            "processes with torchrun, or unset WORLD_SIZE to run one"
        ) from error
    return Place(rank, size, local_rank)


class Ranks:
    """This process among those of the model; made in all of them, after which they watch one another.

    Args:
        place: which one this is; `size` is 2 or more.
        device: on which its share of the model is.
    """

    def __init__(self, place: Place, device: torch.device) -> None:
        self.place = place
        if device.type == "cuda":
            torch.cuda.set_device(device)
        _meet(device)
        # Orders are numbers in the CPU's memory wherever the model is, so they go by gloo.
        self._orders = dist.new_group(backend="gloo", timeout=EVER)
        self._farewells = dist.new_group(backend="gloo", timeout=EVER)
        self._turn = threading.Lock()
        self._ending = threading.Lock()
        self._leaving = threading.Event()
        self._leads = False
        self._parting = threading.Lock()
        self._parted: set[int] = set()
        self._watched = range(1, place.size) if place.rank == LEADER else (LEADER,)
        self._watchers = [threading.Thread(target=self._watch, args=(rank,), daemon=True) for rank in self._watched]
        for watcher in self._watchers:
            watcher.start()

    def lead(self) -> None:
        """For rank 0, once the others are about to listen for orders: `leave` tells them then that it ends."""
        self._leads = True

    @contextmanager
    def together(self) -> Iterator[None]:
        """A turn in which all processes do the same. One that fails leaves the others in the middle of it: `fail`."""
        with self._turn:
            if self._leaving.is_set():
                raise RuntimeError("this process is leaving the others")
            try:
                yield
            except Exception as error:
                self.fail("a step failed; the processes of this model can't go on", error=_line(error))

    def tell(self, order: int, numbers: Sequence[int]) -> None:
        """Rank 0 says what is to be done in this turn, an order of 1 or higher. Raises RuntimeError."""
        self._broadcast([order, len(numbers)])
        self._broadcast(numbers)

    def hear(self) -> tuple[int, list[int]]:
        """The next order and its numbers, for every process but rank 0; waits for it. Raises RuntimeError."""
        order, count = self._broadcast([0] * _HEADER)
        return order, self._broadcast([0] * count)

    def leave(self) -> None:
        """Parts in order, after the turn in progress: says farewell, waits, not for ever, until the others answer."""
        with self._turn:
            self._leaving.set()
            if self._leads:
                with suppress(RuntimeError):  # of one that is gone
                    self._broadcast([END, 0])
        for rank in self._watched:
            self._say_farewell(rank)
        for watcher in self._watchers:
            watcher.join(2 * PARTING_S)
        idle = self._leads or self.place.rank != LEADER  # else rank 0 may be told to stop while a thread of it loads
        if idle and not any(watcher.is_alive() for watcher in self._watchers):
            dist.destroy_process_group()

    def fail(self, why: str, **details: object) -> NoReturn:
        """Ends this process now, in whatever its threads are stuck, and with it all others. For what can't be mended.

        If it is leaving anyway, this only raises RuntimeError.
        """
        if self._leaving.is_set():
            raise RuntimeError(why)
        with self._ending:  # once
            log.error(why, rank=self.place.rank, processes=self.place.size, **details)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)

    def _watch(self, rank: int) -> None:
        try:
            dist.recv(torch.zeros(1), rank, group=self._farewells)
        except RuntimeError:
            why = "a process that holds a part of the model is gone; ending, as the others do"
        else:
            if self._leaving.wait(PARTING_S):  # `leave` answers: who answers has heard all that was said before
                return
            self._say_farewell(rank)
            why = "a process that holds a part of the model has left; ending, as the others do"
        with suppress(RuntimeError):
            self.fail(why, gone=rank)

    def _say_farewell(self, rank: int) -> None:
        with self._parting, suppress(RuntimeError):  # of one that is gone
            if rank not in self._parted:
                self._parted.add(rank)
                dist.send(torch.ones(1), rank, group=self._farewells)

    def _broadcast(self, numbers: Sequence[int]) -> list[int]:
        """Rank 0's numbers; the others give as many."""
        values = torch.tensor(numbers, dtype=torch.int64)
        if numbers:
            dist.broadcast(values, LEADER, group=self._orders)
        return values.tolist()  # type: ignore[no-any-return]


def _meet(device: torch.device) -> None:
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            timeout=LOADING,
            device_id=device if device.type == "cuda" else None,
        )
    except (RuntimeError, ValueError) as error:  # ValueError: a variable is missing
        raise StartupError(
            f"the processes of this model can't meet at MASTER_ADDR={os.environ.get('MASTER_ADDR', '')} "
            f"MASTER_PORT={os.environ.get('MASTER_PORT', '')}: {_line(error)}; start them with torchrun"
        ) from error


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
