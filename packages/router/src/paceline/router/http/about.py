"""Routes that say what there is: models, health, versions, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from paceline.router.access.access import Caller
from paceline.router.http.document import errors
from paceline.router.http.gate import caller_of
from paceline.router.http.responses import Health, Model, Models, Version
from paceline.router.intake import Intake
from paceline.router.version import VERSION
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR

Whose = Annotated[Caller, Depends(caller_of)]


def add_about(app: FastAPI, intake: Intake, registry: CollectorRegistry, wall_clock: Callable[[], float]) -> None:
    """GET /v1/models, /v1/models/NAME, /health, /version and /metrics.

    Args:
        app: gets the routes.
        intake: of the router.
        registry: for /metrics.
        wall_clock: seconds since 1970.
    """
    started = int(wall_clock())

    def models() -> list[Model]:
        names = sorted({member.model for member in intake.backend.roster.available()})
        return [Model(id=name, object="model", created=started, owned_by="paceline") for name in names]

    @app.get("/v1/models", responses=errors())
    async def list_models(_caller: Whose) -> Models:
        """Models of the verifiers that take requests now. `created` is when this router started."""
        return Models(object="list", data=models())

    @app.get("/v1/models/{model:path}", responses=errors(404))
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

    @app.get("/health", responses={503: {"model": Health, "description": "It is shutting down."}, **errors()})
    async def health() -> Health:
        """Whether this router takes requests; it does without verifiers too, and then says so to each."""
        verifiers = len(intake.backend.roster.available())
        if intake.admission.draining:
            content = Health(status="draining", verifiers=verifiers).model_dump_json()
            return Response(content, 503, media_type="application/json")  # type: ignore[return-value]
        return Health(status="ok", verifiers=verifiers)

    @app.get("/version", responses=errors())
    async def version() -> Version:
        """The router's version and the protocol's."""
        return Version(version=VERSION, protocol=f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}")

    text = {"schema": {"type": "string"}}
    shown: dict[int | str, dict[str, Any]] = {
        200: {"description": "Prometheus' text format.", "content": {"text/plain": text}}
    }

    @app.get("/metrics", response_class=Response, responses={**shown, **errors()})
    async def metrics() -> Response:
        """The router's metrics."""
        return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})
