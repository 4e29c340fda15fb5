"""Telling the service manager how a process stands: systemd's notify protocol, for units with Type=notify.

Without NOTIFY_SOCKET in the environment, which is everywhere but under such a manager, nothing happens.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

log = structlog.get_logger()

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"
_ABSTRACT = "@"


@dataclass(frozen=True)
class Manager:
    """Who started this process and wants to hear of it.

    Attributes:
        address: of its datagram socket: a path, or '@' and an abstract name; empty if nobody wants to hear anything.
        watchdog_s: seconds within which it expects ALIVE; 0 if it doesn't.
    """

    address: str = ""
    watchdog_s: float = 0.0

    def tell(self, state: str) -> None:
        """Sends one state. A manager that can't be told is said in the log and no reason to stop serving."""
        if not self.address:
            return
        address = "\0" + self.address[1:] if self.address.startswith(_ABSTRACT) else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.connect(address)
                sender.send(state.encode())
        except OSError as error:
            log.warning("the service manager can't be told", state=state, why=error.strerror)

    async def keep_alive(self) -> None:
        """Says ALIVE twice as often as expected, for ever: from the event loop, so that one that hangs is noticed."""
        while self.watchdog_s:
            self.tell(ALIVE)
            await asyncio.sleep(self.watchdog_s / 2)


def manager_in(environment: Mapping[str, str], pid: int) -> Manager:
    """The manager that a process's environment names.

    Args:
        environment: with NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, or without.
        pid: of this process; a watchdog may be meant for another.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", _ABSTRACT)):
        return Manager()
    microseconds = environment.get("WATCHDOG_USEC", "")
    ours = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
    return Manager(address, int(microseconds) / 1e6 if ours and microseconds.isdecimal() else 0.0)


def manager() -> Manager:
    """That of this process."""
    return manager_in(os.environ, os.getpid())
