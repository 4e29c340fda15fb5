"""What is wrong with a body, in one sentence that names field, value and limit; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from paceline.router.http import requests
from paceline.router.http.errors import Failure
from paceline.router.http.fields import UNSUPPORTED

MAX_PARAM = 200
MAX_MESSAGE = 1000  # it may quote what was sent
_CODES = {"extra_forbidden": "unknown_parameter", UNSUPPORTED: "unsupported_parameter", "json_invalid": "invalid_json"}
_VAGUE = {"string_type", "list_type", "int_type", "literal_error"}


def _names_of(*models: type[BaseModel]) -> frozenset[str]:
    fields = [field for model in models for field in model.model_fields.items()]
    return frozenset(name for name, _ in fields) | frozenset(info.alias for _, info in fields if info.alias)


_FIELDS = _names_of(*(one for one in vars(requests).values() if isinstance(one, type) and issubclass(one, BaseModel)))


def failure_of_body(errors: Sequence[Mapping[str, Any]]) -> Failure:
    """What a client is told. Of several errors the one that says most: a field that may be of several types has one for
    each type, most of which say no more than that it isn't that."""
    error = max(errors, key=lambda one: (one["type"] not in _VAGUE, len(one["loc"])))
    kind, param = error["type"], _param(error)
    if kind == "json_invalid":
        reason = error.get("ctx", {}).get("error", error["msg"])
        return Failure(400, f"the body is no JSON: {reason} (at character {error['loc'][-1]})", code=_CODES[kind])
    if not param and kind in ("missing", "model_attributes_type", "model_type"):
        message = "the body must be a JSON object, with Content-Type: application/json"
        return Failure(400, message, code="invalid_json")
    if kind == "extra_forbidden":
        message = f"{param} is not known here; leave it out"
    elif kind == "mismatch":
        param, message = error["ctx"]["param"], error["msg"]
    elif kind == UNSUPPORTED:
        message = f"{param} {error['msg']}"
    else:
        message = f"{param}: {error['msg']}{_value(error.get('input'))}"
    return Failure(400, message[:MAX_MESSAGE], param or None, _CODES.get(kind, "invalid_value"))


def _param(error: Mapping[str, Any]) -> str:
    """messages.0.content: without what pydantic says of which of several types it tried."""
    *path, last = error["loc"][1:] or ("",)
    known = [part for part in path if isinstance(part, int) or part in _FIELDS]
    if isinstance(last, int) or last in _FIELDS or error["type"] == "extra_forbidden":
        known.append(last)
    path = [
        part for part, before in zip(known, [None, *known], strict=False) if part != before
    ]  # a tag beside its field
    return ".".join(map(str, path))[:MAX_PARAM]


def _value(value: object) -> str:
    """Numbers only: texts may be long, and are known to whoever sent them."""
    return f"; it is {value}" if isinstance(value, (bool, int, float)) else ""
