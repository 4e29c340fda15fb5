"""Calls to verifiers: one channel per address, kept while the verifier is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from paceline.router.failures import NOT_LET_IN, VerifierError
from paceline.router.watch import Watch
from paceline.v1 import generation_pb2, types_pb2, verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings
from paceline.wire.status import DETAILS_KEY, from_rpc_error

ENGAGE_TIMEOUT_S = 5.0

Metadata = tuple[tuple[str, str], ...]


@dataclass(slots=True)
class _Line:
    """A channel with the number of calls on it; a retired one is closed when the last of them ends."""

    channel: grpc.aio.Channel
    num_calls: int = 0
    retired: bool = False


class Verifiers:
    """Dials verifiers.

    Args:
        settings: how.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._lines: dict[str, _Line] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def generate(
        self,
        address: str,
        request: generation_pb2.GenerateRequest,
        timeout_s: float | None,
        watch: Watch | None = None,
        metadata: Metadata | None = None,
    ) -> AsyncGenerator[generation_pb2.GenerateEvent]:
        """The events of one call, for as long as somebody seems to be there. Close the generator to cancel the call.
        Raises VerifierError."""
        with self._line(address) as stub:
            call = stub.Generate(request, timeout=timeout_s, metadata=metadata)
            with _watched(call, watch) as given_up:
                try:
                    async for event in call:
                        if watch is not None:
                            watch.heard()
                        yield event
                        if watch is not None:
                            watch.listens()
                except grpc.aio.AioRpcError as error:
                    raise given_up[0] if given_up else error_from_grpc(error) from error
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if not given_up or (task is not None and task.cancelling()):
                        raise
                    raise given_up[0] from None
                finally:
                    call.cancel()

    async def engage(self, address: str, request_id: str, speculation: types_pb2.Speculation) -> None:
        """Changes the drafters of a running request. Raises VerifierError."""
        request = verifier_pb2.EngageRequest(request_id=request_id, speculation=speculation)
        with self._line(address) as stub:
            try:
                await stub.Engage(request, timeout=ENGAGE_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise error_from_grpc(error) from error

    def retire(self, address: str) -> None:
        """Dials anew next time: what is at an address after a failure may be another process."""
        line = self._lines.pop(address, None)
        if line is not None:
            line.retired = True
            self._close_if_unused(line)

    def keep_only(self, addresses: set[str]) -> None:
        """Retires the channels to all others."""
        for address in self._lines.keys() - addresses:
            self.retire(address)

    async def close(self) -> None:
        for address in list(self._lines):
            self.retire(address)
        await asyncio.gather(*self._closing)

    @contextmanager
    def _line(self, address: str) -> Iterator[verifier_pb2_grpc.VerifierStub]:
        line = self._lines.get(address)
        if line is None:
            line = self._lines[address] = _Line(connect(address, self._settings))
        line.num_calls += 1
        try:
            yield verifier_pb2_grpc.VerifierStub(line.channel)
        finally:
            line.num_calls -= 1
            self._close_if_unused(line)

    def _close_if_unused(self, line: _Line) -> None:
        if line.retired and line.num_calls == 0:
            task = asyncio.get_running_loop().create_task(line.channel.close(grace=None))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


@contextmanager
def _watched(call: grpc.aio.Call, watch: Watch | None) -> Iterator[list[VerifierError]]:
    """Cancels a call when its watch finds nobody there; what is then in the list is why."""
    given_up: list[VerifierError] = []
    if watch is None:
        yield given_up
        return
    loop = asyncio.get_running_loop()

    timers: list[asyncio.TimerHandle] = []

    def tick() -> None:
        error = watch.tick()
        if error is None:
            timers[:] = [loop.call_later(watch.tick_s, tick)]
        else:
            given_up.append(error)
            call.cancel()

    watch.listens()
    timers[:] = [loop.call_later(watch.tick_s, tick)]
    try:
        yield given_up
    finally:
        timers[0].cancel()


def error_from_grpc(error: grpc.aio.AioRpcError) -> VerifierError:
    """The failure of a call as a value that needs no gRPC to look at."""
    refusal = from_rpc_error(error)
    message = error.details() or ""
    if refusal is not None and refusal.reason in NOT_LET_IN:
        message = "it doesn't take this router's token; give the router and its verifiers the same --token"
    trailers: Any = error.trailing_metadata() or ()
    details = next((value for key, value in trailers if key == DETAILS_KEY), b"")
    return VerifierError(
        code=error.code().name,
        message=message,
        reason=refusal.reason if refusal else None,
        value=str(refusal.value or "") if refusal else "",
        details=details if isinstance(details, bytes) else details.encode(),
        field=refusal.field if refusal else "",
        retry_after_s=refusal.retry_after_s if refusal else None,
    )
