"""Hooks for schemathesis (CONTRIBUTING.md): generated bodies ask for a model that is there, and for short answers.

Without them hardly one of them comes further than the model's name.
"""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

import schemathesis

MAX_TOKENS = 8


def _model() -> str:
    with urllib.request.urlopen(f"{os.environ['PACELINE_URL']}/v1/models") as response:
        name: str = json.load(response)["data"][0]["id"]
        return name


MODEL = _model()


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """The generated body, made answerable where it is well-formed."""
    if not isinstance(body, dict):
        return body
    if isinstance(body.get("model"), str):
        body["model"] = MODEL
    for name in ("max_tokens", "max_completion_tokens"):
        if isinstance(body.get(name), int):
            body[name] = min(body[name], MAX_TOKENS)
    if not body.get("stream"):
        body.pop("stream_options", None)
    if not body.get("logprobs"):
        body.pop("top_logprobs", None)
    return body
