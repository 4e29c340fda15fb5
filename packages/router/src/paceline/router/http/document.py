"""What FastAPI leaves out of the OpenAPI document: bodies of a stream's events."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

REF = "#/components/schemas/{model}"


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
