"""What surrounds every call of a Paceline service: a count and a gate for draining, errors as statuses, refusals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import grpc.aio
import structlog

from paceline.wire.errors import PacelineError, Reason
from paceline.wire.status import abort

log = structlog.get_logger()

FIRST_MESSAGE_S = 1.0


def wrapped(handler: grpc.RpcMethodHandler, unary: Any, stream: Any) -> grpc.RpcMethodHandler:
    """The same handler with its function passed through `unary` or `stream`, by the kind of its response."""
    kinds = {
        (False, False): ("unary_unary", grpc.unary_unary_rpc_method_handler),
        (False, True): ("unary_stream", grpc.unary_stream_rpc_method_handler),
        (True, False): ("stream_unary", grpc.stream_unary_rpc_method_handler),
        (True, True): ("stream_stream", grpc.stream_stream_rpc_method_handler),
    }
    attribute, make = kinds[bool(handler.request_streaming), bool(handler.response_streaming)]
    inner = getattr(handler, attribute)
    wrapper = stream(inner) if handler.response_streaming else unary(inner)
    return make(
        wrapper,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


class CallsInterceptor(grpc.aio.ServerInterceptor):
    """Counts the running calls of our services, and refuses new ones once told to."""

    def __init__(self) -> None:
        self.draining = False
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def finished(self, within_s: float) -> None:
        """Returns when no call runs, or after so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._idle.wait()

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        self._running += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/paceline."):
            return handler
        if self.draining:
            message = "this service is shutting down; ask another, or this one again later"
            return refusing(handler, PacelineError(Reason.DRAINING, message, retry_after_s=1.0))

        def unary(inner: Any) -> Any:
            async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
                with self._counted():
                    return await inner(request, context)

            return call

        def stream(inner: Any) -> Any:
            async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
                responses = inner(request, context)
                with self._counted():
                    try:
                        async for response in responses:
                            yield response
                    finally:
                        await responses.aclose()

            return call

        return wrapped(handler, unary, stream)


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns PacelineError into its status, and anything unforeseen into INTERNAL without details of the request.

    Handlers that stream responses are asynchronous generators.
    """

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        handler = await continuation(details)
        if handler is None or not details.method.startswith("/paceline."):
            return handler

        def unary(inner: Any) -> Any:
            async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
                try:
                    return await inner(request, context)
                except PacelineError as error:
                    await abort(context, error)
                except (asyncio.CancelledError, grpc.aio.AbortError):
                    raise
                except Exception:
                    await abort(context, _unforeseen(details.method))

            return call

        def stream(inner: Any) -> Any:
            async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
                responses = inner(request, context)
                try:
                    async for response in responses:
                        yield response
                except PacelineError as error:
                    await abort(context, error)
                except (asyncio.CancelledError, GeneratorExit, grpc.aio.AbortError):
                    raise
                except Exception:
                    await abort(context, _unforeseen(details.method))
                finally:
                    await responses.aclose()

            return call

        return wrapped(handler, unary, stream)


def _unforeseen(method: str) -> PacelineError:
    log.exception("unforeseen error", method=method)
    return PacelineError(Reason.INTERNAL, f"unforeseen error in {method}; the service's log has the traceback")


async def _first_of(requests: AsyncIterator[Any]) -> None:
    """Takes the first message of a stream that is about to be refused.

    A grpc.aio client whose write fails because the refusal was faster reports INTERNAL in place of the refusal
    (grpc issue 36066). After its first write it waits for an answer and gets it.
    """
    with contextlib.suppress(TimeoutError, grpc.RpcError):
        async with asyncio.timeout(FIRST_MESSAGE_S):
            await anext(aiter(requests), None)


def refusing(handler: grpc.RpcMethodHandler, error: PacelineError) -> grpc.RpcMethodHandler:
    """A handler of the same kind that refuses every call."""

    async def refuse(request: Any, context: grpc.aio.ServicerContext) -> Any:
        if handler.request_streaming:
            await _first_of(request)
        await abort(context, error)

    def unary(_inner: Any) -> Any:
        return refuse

    def stream(_inner: Any) -> Any:
        async def call(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
            await refuse(request, context)
            yield  # pragma: no cover - makes this an asynchronous generator

        return call

    return wrapped(handler, unary, stream)
