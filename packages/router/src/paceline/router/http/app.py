"""The application: its routes that answer prompts, and those that others add."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from paceline.router.access.access import Caller
from paceline.router.failures import VerifierError
from paceline.router.http import translate
from paceline.router.http.about import add_about
from paceline.router.http.answer import Answer
from paceline.router.http.deadline import timeout_of
from paceline.router.http.document import ERRORS, content_of, describe, errors
from paceline.router.http.errors import Failure, failure_of
from paceline.router.http.gate import caller_of
from paceline.router.http.live_page import add_page
from paceline.router.http.requests import ChatRequest, CompletionRequest
from paceline.router.http.responding import SEND_TIMEOUT_S, respond
from paceline.router.http.responses import (
    ChatChunk,
    ChatCompletion,
    Completion,
)
from paceline.router.http.shapes import ChatShape, CompletionShape, Head
from paceline.router.http.standing import add_standing
from paceline.router.http.validation import failure_of_body
from paceline.router.intake import Intake
from paceline.router.version import VERSION
from paceline.wire import tracing
from paceline.wire.errors import PacelineError
from paceline.wire.tracing import traceparent_of

ChatBody = Annotated[ChatRequest, Body()]
CompletionBody = Annotated[CompletionRequest, Body()]
Timeout = Annotated[float | None, Depends(timeout_of)]
Whose = Annotated[Caller, Depends(caller_of)]


async def _traceparent(request: Request) -> str:
    """Of the client's span; what is no traceparent is none."""
    return traceparent_of(request.headers.get(tracing.KEY))


Traceparent = Annotated[str, Depends(_traceparent)]


def _answers(whole: type[Any], part: type[Any]) -> dict[int | str, dict[str, Any]]:
    """The responses of a route that answers prompts."""
    said = f"Events whose data is a {part.__name__}; the last is [DONE]."
    stream = {"schema": {"type": "string", "description": said, **content_of(part)}}
    success = {"model": whole, "description": "The answer.", "content": {"text/event-stream": stream}}
    return {200: success, **errors(*ERRORS)}


def make_app(
    intake: Intake,
    registry: CollectorRegistry,
    clock: Callable[[], float] = time.time,
    send_timeout_s: float = SEND_TIMEOUT_S,
    page: bool = True,
) -> FastAPI:
    """The application.

    Args:
        intake: takes requests.
        registry: for /metrics.
        clock: seconds since 1970.
        send_timeout_s: for which a reader may take nothing.
        page: whether the live page is served, too.
    """
    app = FastAPI(
        title="Paceline",
        version=VERSION,
        description="Language models with distributed speculative decoding, in the shape of OpenAI's API.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(RequestValidationError, _bad_body)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(PacelineError, _refused)
    app.add_exception_handler(VerifierError, _refused)
    add_about(app, intake, registry, clock)
    add_standing(app, intake, clock, errors())
    if page:
        add_page(app)

    @app.post("/v1/chat/completions", response_model=None, responses=_answers(ChatCompletion, ChatChunk))
    async def create_chat_completion(
        body: ChatBody, request: Request, caller: Whose, timeout_s: Timeout, traceparent: Traceparent
    ) -> Response:
        """Answers a conversation."""
        head = Head(f"chatcmpl-{intake.random_bits(128):032x}", int(clock()))
        requests = translate.chat_requests(body, head.id, intake.random_bits(64))
        answer = Answer(intake, caller, body, requests, ChatShape(head), timeout_s, traceparent)
        return await respond(request, answer, bool(body.stream), head.id, send_timeout_s)

    @app.post("/v1/completions", response_model=None, responses=_answers(Completion, Completion))
    async def create_completion(
        body: CompletionBody, request: Request, caller: Whose, timeout_s: Timeout, traceparent: Traceparent
    ) -> Response:
        """Continues texts."""
        head = Head(f"cmpl-{intake.random_bits(128):032x}", int(clock()))
        requests = translate.completion_requests(body, head.id, intake.random_bits(64))
        answer = Answer(intake, caller, body, requests, CompletionShape(head), timeout_s, traceparent)
        return await respond(request, answer, bool(body.stream), head.id, send_timeout_s)

    describe(app, ChatChunk, Completion)
    return app


async def _bad_body(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return failure_of_body(error.errors()).to_response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Unknown routes and methods, and bodies that can't be read."""
    assert isinstance(error, HTTPException)
    codes = {404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "body_too_large"}
    message = error.detail
    if error.status_code in (404, 405):
        message = f"there is no {request.method} {request.url.path[:200]}"
    code = codes.get(error.status_code, "invalid_request")
    return Failure(error.status_code, message, code=code, headers=dict(error.headers or {})).to_response()


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, (PacelineError, VerifierError))
    return failure_of(error).to_response()
