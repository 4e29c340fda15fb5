"""A TCP relay that makes loopback a long way: every byte arrives later than it was sent, and the way can be cut.

    python tools/e2e/delaying_relay.py --target HOST:PORT --delay-ms 20

Bytes keep their order and are never lost while a connection lives; bandwidth is what the machine has. Setting up
a connection takes no longer than without the relay. SIGUSR1 cuts the way in mode `stall`, SIGUSR2 in mode
`reset`, for --cut-s seconds; standard output tells of it, one JSON object a line: {"event": "cut" | "healed", …}.
SIGTERM ends it with 0.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

CHUNK_BYTES = 64 * 1024
MAX_UNDERWAY_BYTES = 1 << 20  # each way of a connection; the sender waits while so much is on its way
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing answers with a reset


class Cut(Enum):
    """What becomes of connections while the way is cut; new ones are reset at once in both modes."""

    STALL = "stall"
    """Their bytes are withheld, and delivered when the cut is over."""
    RESET = "reset"
    """They are reset at both ends, with what was on its way."""


@dataclass(slots=True)
class _Way:
    """One direction of a connection: chunks and when each is due; b"" is the end of the stream."""

    underway: deque[tuple[float, bytes]] = field(default_factory=deque)
    num_bytes: int = 0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)


class DelayingRelay:
    """Forwards connections to `target`. Use as an asynchronous context manager; `address` is where it listens.

    Args:
        target: host:port.
        delay_s: between a byte's arrival and its departure, each way.
        jitter_s: of the delay, a random part of that is added; the order stays.
        listen: host:port; port 0 takes a free one.
        seed: of the jitter.
    """

    def __init__(
        self, target: str, delay_s: float, jitter_s: float = 0.0, listen: str = "127.0.0.1:0", seed: int = 0
    ) -> None:
        self.address = ""
        self._target = _host_and_port(target)
        self._listen = _host_and_port(listen)
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._rng = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], list[asyncio.StreamWriter]] = {}
        self._open = asyncio.Event()  # not set while the way is cut
        self._open.set()

    @property
    def num_connections(self) -> int:
        return len(self._connections)

    async def __aenter__(self) -> DelayingRelay:
        host, port = self._listen
        self._server = await asyncio.start_server(self._accept, host, port, limit=CHUNK_BYTES)
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_exception: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._reset_all()
        await self._server.wait_closed()

    async def cut(self, mode: Cut, seconds: float) -> None:
        """Cuts the way; returns when it is whole again. One cut at a time."""
        self._open.clear()
        try:
            if mode is Cut.RESET:
                await self._reset_all()
            await asyncio.sleep(seconds)
        finally:
            self._open.set()

    async def _reset_all(self) -> None:
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._open.is_set():
            _reset(writer)
            return
        connection = asyncio.current_task()
        assert connection is not None
        writers = self._connections[connection] = [writer]
        close: Callable[[asyncio.StreamWriter], None] = _reset
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target, limit=CHUNK_BYTES)
            writers.append(far_writer)
            async with asyncio.TaskGroup() as ways:
                for source, sink in ((reader, far_writer), (far_reader, writer)):
                    way = _Way()
                    ways.create_task(self._take(source, way))
                    ways.create_task(self._deliver(way, sink))
            close = asyncio.StreamWriter.close  # both ends have said all; a reset could destroy the last of it
        except* OSError:
            pass  # one end broke or was never there; the other one hears of it below
        except* asyncio.CancelledError:
            pass  # reset by a cut or at the end
        finally:
            del self._connections[connection]
            for each in writers:
                close(each)

    async def _take(self, reader: asyncio.StreamReader, way: _Way) -> None:
        """Reads what is sent, as fast as it comes, while there is room for it."""
        loop = asyncio.get_running_loop()
        due = 0.0
        chunk = b"?"
        while chunk:
            chunk = await reader.read(CHUNK_BYTES)
            due = max(due, loop.time() + self._delay_s + self._jitter_s * self._rng.random())
            async with way.changed:
                way.underway.append((due, chunk))
                way.num_bytes += len(chunk)
                way.changed.notify_all()
                await way.changed.wait_for(lambda: way.num_bytes < MAX_UNDERWAY_BYTES)

    async def _deliver(self, way: _Way, writer: asyncio.StreamWriter) -> None:
        """Writes each chunk when it is due and the way is open."""
        loop = asyncio.get_running_loop()
        while True:
            async with way.changed:
                await way.changed.wait_for(lambda: way.underway)
                due, chunk = way.underway[0]
            while (left_s := due - loop.time()) > 0.0:
                await asyncio.sleep(left_s)
            await self._open.wait()
            if not chunk:
                writer.write_eof()
                return
            writer.write(chunk)
            await writer.drain()
            async with way.changed:
                way.underway.popleft()
                way.num_bytes -= len(chunk)
                way.changed.notify_all()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Closes a connection so that its other end sees a reset."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


def tell(event: str, **details: object) -> None:
    print(json.dumps({"event": event, **details}), flush=True)


async def relay(arguments: argparse.Namespace) -> None:
    """Until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    delays = (arguments.delay_ms / 1e3, arguments.jitter_ms / 1e3)
    async with DelayingRelay(arguments.target, *delays, arguments.listen, arguments.seed) as serving:
        cuts: set[asyncio.Task[None]] = set()

        async def cut(mode: Cut) -> None:
            tell("cut", mode=mode.value, seconds=arguments.cut_s, connections=serving.num_connections)
            await serving.cut(mode, arguments.cut_s)
            tell("healed")

        def start_cut(mode: Cut) -> Callable[[], None]:
            def start() -> None:
                if not cuts:
                    task = asyncio.create_task(cut(mode))
                    cuts.add(task)
                    task.add_done_callback(cuts.discard)

            return start

        loop.add_signal_handler(signal.SIGUSR1, start_cut(Cut.STALL))
        loop.add_signal_handler(signal.SIGUSR2, start_cut(Cut.RESET))
        if arguments.ready_file is not None:
            arguments.ready_file.write_text(json.dumps({"address": serving.address}))
        tell("listening", address=serving.address)
        await stopping.wait()
        for task in cuts:
            task.cancel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, help="host:port to forward to")
    parser.add_argument("--listen", default="127.0.0.1:0", help="host:port; port 0 takes a free one")
    parser.add_argument("--delay-ms", type=float, default=20.0, help="each way")
    parser.add_argument("--jitter-ms", type=float, default=0.0, help="up to so much more, at random")
    parser.add_argument("--seed", type=int, default=0, help="of the jitter")
    parser.add_argument("--cut-s", type=float, default=3.0, help="how long SIGUSR1 (stall) and SIGUSR2 (reset) cut")
    parser.add_argument("--ready-file", type=Path, help="file to write the address to, as JSON")
    asyncio.run(relay(parser.parse_args()))


if __name__ == "__main__":
    main()
