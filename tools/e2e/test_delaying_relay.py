"""The relay that stands for a slow link: what it delays, keeps and cuts."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from delaying_relay import MAX_UNDERWAY_BYTES, Cut, DelayingRelay

from paceline.cli.stack import Stack

DELAY_S = 0.05
DEADLINE_S = 30.0
RELAY = Path(__file__).parent / "delaying_relay.py"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo() -> AsyncIterator[str]:
    """A server that sends back what it gets, to the end of the stream; gives its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(4096):
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async with asyncio.timeout(DEADLINE_S), await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def dial(address: str) -> Streams:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def echoed(streams: Streams, message: bytes) -> tuple[bytes, float]:
    """What comes back, and after how many seconds."""
    reader, writer = streams
    started = time.monotonic()
    writer.write(message)
    return await reader.readexactly(len(message)), time.monotonic() - started


async def test_bytes_take_their_time_both_ways() -> None:
    async with echo() as target, DelayingRelay(target, DELAY_S) as relay:
        streams = await dial(relay.address)
        for _ in range(3):
            message, seconds = await echoed(streams, b"there and back")
            assert message == b"there and back"
            assert seconds >= 2 * DELAY_S


async def test_delays_of_messages_sent_one_after_the_other_do_not_add_up() -> None:
    """A long way is not a narrow one: twenty messages are under way at once."""
    async with echo() as target, DelayingRelay(target, 0.5) as relay:
        reader, writer = await dial(relay.address)
        started = time.monotonic()
        for index in range(20):
            writer.write(bytes([index]))
            await asyncio.sleep(0.01)
        assert await reader.readexactly(20) == bytes(range(20))
        assert 1.0 <= time.monotonic() - started < 20.0, "one after the other they would take 20 seconds"


async def test_the_order_is_kept_whatever_the_jitter_and_beyond_what_may_be_under_way() -> None:
    sent = bytes(index * index % 251 for index in range(3 * MAX_UNDERWAY_BYTES // 1000)) * 1000
    async with echo() as target, DelayingRelay(target, 0.002, jitter_s=0.01) as relay:
        reader, writer = await dial(relay.address)
        receiving = asyncio.create_task(reader.read(-1))
        for start in range(0, len(sent), 7000):
            writer.write(sent[start : start + 7000])
            await writer.drain()
        writer.write_eof()
        assert await receiving == sent


async def test_a_stall_withholds_bytes_and_delivers_them_afterwards() -> None:
    async with echo() as target, DelayingRelay(target, 0.0) as relay:
        streams = await dial(relay.address)
        await echoed(streams, b"before")
        cut = asyncio.create_task(relay.cut(Cut.STALL, 0.3))
        await asyncio.sleep(0)
        message, seconds = await echoed(streams, b"during")
        assert message == b"during"
        assert seconds >= 0.25
        await cut
        assert (await echoed(streams, b"after"))[0] == b"after"


@pytest.mark.parametrize("mode", list(Cut))
async def test_while_the_way_is_cut_nobody_gets_through_anew(mode: Cut) -> None:
    async with echo() as target, DelayingRelay(target, 0.0) as relay:
        cut = asyncio.create_task(relay.cut(mode, 0.3))
        await asyncio.sleep(0)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await echoed(await dial(relay.address), b"hello?")
        assert not cut.done()
        await cut
        assert (await echoed(await dial(relay.address), b"hello!"))[0] == b"hello!"


async def test_a_reset_ends_connections_at_both_ends() -> None:
    ended = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"welcome")
        try:
            await reader.read()
        except ConnectionResetError:
            ended.set()
        finally:
            writer.close()

    async with asyncio.timeout(DEADLINE_S), await asyncio.start_server(watch, "127.0.0.1", 0) as server:
        target = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with DelayingRelay(target, 0.0) as relay:
            reader, _ = await dial(relay.address)
            assert await reader.readexactly(7) == b"welcome"
            await relay.cut(Cut.RESET, 0.0)
            assert relay.num_connections == 0
            with pytest.raises(ConnectionResetError):
                await reader.read()
            await ended.wait()


async def test_a_target_that_is_not_there_is_a_connection_that_breaks() -> None:
    async with echo() as target:
        pass
    async with asyncio.timeout(DEADLINE_S), DelayingRelay(target, 0.0) as relay:
        reader, _ = await dial(relay.address)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)


async def test_as_a_process_it_relays_and_is_cut_by_a_signal(tmp_path: Path) -> None:
    async with echo() as target:
        with Stack(tmp_path) as stack:
            options = ("--target", target, "--delay-ms", str(DELAY_S * 1e3), "--cut-s", "0.2")
            service = stack.spawn("relay", str(RELAY), *options)
            await asyncio.to_thread(stack.wait, "relay")
            streams = await dial(service.address)
            assert (await echoed(streams, b"hello"))[1] >= 2 * DELAY_S
            service.process.send_signal(signal.SIGUSR2)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await streams[0].readexactly(1)
            await asyncio.to_thread(stack.wait_for_output, service, "healed")
            assert (await echoed(await dial(service.address), b"again"))[0] == b"again"
            events = [json.loads(line) for line in service.log.read_text().splitlines()]
            assert [event["event"] for event in events] == ["listening", "cut", "healed"]
            assert events[1] == {"event": "cut", "mode": "reset", "seconds": 0.2, "connections": 1}
            assert await asyncio.to_thread(service.terminate) == 0
