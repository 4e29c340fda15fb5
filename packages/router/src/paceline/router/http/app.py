"""The routes: check, translate, answer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Body, Depends, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException

from paceline.router.access.access import Caller
from paceline.router.failures import VerifierError
from paceline.router.http import translate
from paceline.router.http.answer import Answer
from paceline.router.http.deadline import timeout_of
from paceline.router.http.document import content_of, describe
from paceline.router.http.errors import Failure, failure_of
from paceline.router.http.gate import caller_of
from paceline.router.http.live_page import add_page
from paceline.router.http.requests import ChatRequest, CompletionRequest
from paceline.router.http.responding import SEND_TIMEOUT_S, respond
from paceline.router.http.responses import (
    ChatChunk,
    ChatCompletion,
    Completion,
    Error,
    Health,
    Model,
    Models,
    Version,
)
from paceline.router.http.shapes import ChatShape, CompletionShape, Head
from paceline.router.http.standing import add_standing
from paceline.router.http.validation import failure_of_body
from paceline.router.intake import Intake
from paceline.router.version import VERSION
from paceline.wire import tracing
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tracing import traceparent_of
from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR

ChatBody = Annotated[ChatRequest, Body()]
CompletionBody = Annotated[CompletionRequest, Body()]
Timeout = Annotated[float | None, Depends(timeout_of)]
Whose = Annotated[Caller, Depends(caller_of)]


async def _traceparent(request: Request) -> str:
    """Of the client's span; what is no traceparent is none."""
    return traceparent_of(request.headers.get(tracing.KEY))


Traceparent = Annotated[str, Depends(_traceparent)]

_ERRORS: dict[int | str, str] = {
    400: "The request is at fault; `param` names the field.",
    401: "A token is needed, and this one isn't good, or there is none.",
    403: "The token is for something else.",
    404: "There is no such model.",
    408: "The body did not come in time.",
    413: "The body is too large.",
    429: "Too many requests, of all or of this tenant's; see Retry-After.",
    500: "An error of this router's.",
    503: "Nobody can answer now; see Retry-After.",
    504: "The answer did not come in time.",
}


def _errors(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    """How a route may fail. "4XX" is in all of them, so that FastAPI doesn't add its own 422."""
    described = {"4XX": "The request is at fault.", **_ERRORS}
    return {status: {"model": Error, "description": described[status]} for status in ("4XX", *statuses)}


def _answers(whole: type[Any], part: type[Any]) -> dict[int | str, dict[str, Any]]:
    """The responses of a route that answers prompts."""
    said = f"Events whose data is a {part.__name__}; the last is [DONE]."
    stream = {"schema": {"type": "string", "description": said, **content_of(part)}}
    success = {"model": whole, "description": "The answer.", "content": {"text/event-stream": stream}}
    return {200: success, **_errors(*_ERRORS)}


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
    started = int(clock())
    add_standing(app, intake, clock, _errors())
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

    def models() -> list[Model]:
        names = sorted({member.model for member in intake.backend.roster.available()})
        return [Model(id=name, object="model", created=started, owned_by="paceline") for name in names]

    @app.get("/v1/models", responses=_errors())
    async def list_models(_caller: Whose) -> Models:
        """Models of the verifiers that take requests now. `created` is when this router started."""
        return Models(object="list", data=models())

    @app.get("/v1/models/{model:path}", responses=_errors(404))
    async def retrieve_model(model: Annotated[str, Path()], _caller: Whose) -> Model:
        """One of them."""
        known = models()
        for one in known:
            if one.id == model:
                return one
        raise PacelineError(
            Reason.UNKNOWN_MODEL,
            f"model is {model[:200]!r}; there are: {', '.join(one.id for one in known) or 'none'}",
            field="model",
        )

    @app.get("/health", responses={503: {"model": Health, "description": "It is shutting down."}, **_errors()})
    async def health() -> Health:
        """Whether this router takes requests; it does without verifiers too, and then says so to each."""
        verifiers = len(intake.backend.roster.available())
        if intake.admission.draining:
            content = Health(status="draining", verifiers=verifiers).model_dump_json()
            return Response(content, 503, media_type="application/json")  # type: ignore[return-value]
        return Health(status="ok", verifiers=verifiers)

    @app.get("/version", responses=_errors())
    async def version() -> Version:
        """The router's version and the protocol's."""
        return Version(version=VERSION, protocol=f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}")

    text = {"schema": {"type": "string"}}
    shown: dict[int | str, dict[str, Any]] = {
        200: {"description": "Prometheus' text format.", "content": {"text/plain": text}}
    }

    @app.get("/metrics", response_class=Response, responses={**shown, **_errors()})
    async def metrics() -> Response:
        """The router's metrics."""
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

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
