"""What the OpenAPI document says that FastAPI doesn't by itself: how routes fail, and bodies of a stream's events."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from paceline.router.http.responses import Error

REF = "#/components/schemas/{model}"

ERRORS: dict[int | str, str] = {
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


def errors(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    """How a route may fail. "4XX" is in all of them, so that FastAPI doesn't add its own 422."""
    described = {"4XX": "The request is at fault.", **ERRORS}
    return {status: {"model": Error, "description": described[status]} for status in ("4XX", *statuses)}


def content_of(model: type[BaseModel]) -> dict[str, Any]:
    """For the schema of a string that holds one of these as JSON."""
    return {"contentMediaType": "application/json", "contentSchema": {"$ref": REF.format(model=model.__name__)}}


def describe(app: FastAPI, *models: type[BaseModel]) -> None:
    """Adds these, and what they are made of, to the schemas of the application's document."""
    written = app.openapi

    def openapi() -> dict[str, Any]:
        document = written()
        _, schemas = models_json_schema([(model, "serialization") for model in models], ref_template=REF)
        known = document["components"]["schemas"]
        document["components"]["schemas"] = {**schemas["$defs"], **known}
        return document

    app.openapi = openapi  # type: ignore[method-assign]
