"""Types of request fields: strict, bounded, and plain about what is not supported."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError, core_schema

from paceline.router.checks import MAX_NAME, MAX_STOP_LENGTH, MAX_STOPS, MAX_TEXT_BYTES

UNSUPPORTED = "unsupported"


class Strict(BaseModel):
    """Nothing is converted (a number in quotes is no number), and what isn't known is refused."""

    model_config = ConfigDict(strict=True, extra="forbid")


# JSON can spell half a character, a lone surrogate, which no tokenizer takes. pydantic refuses it where it counts.
Text = Annotated[str, Field(max_length=MAX_TEXT_BYTES)]
Name = Annotated[str, Field(max_length=MAX_NAME)]
StopString = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Stop = StopString | Annotated[list[StopString], Field(max_length=MAX_STOPS)] | None
Seed = Annotated[int, Field(ge=-(2**63), le=2**64 - 1)]
TokenId = Annotated[int, Field(ge=0, le=2**32 - 1)]


class Only:
    """Annotates a field that clients may send and that nothing is done about.

    Args:
        neutral: values that ask for nothing; null always is one. All others are refused by name.
    """

    def __init__(self, *neutral: Any) -> None:
        self._allowed = (None, *neutral)

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        return {"enum": list(self._allowed)}

    def _check(self, value: Any) -> Any:
        if value in self._allowed:
            return value
        allowed = " or ".join(map(json.dumps, self._allowed))
        raise PydanticCustomError(
            UNSUPPORTED, "is not supported; leave it out, or set it to {allowed}", {"allowed": allowed}
        )


def mismatch(param: str, message: str) -> PydanticCustomError:
    """Fields that don't fit together; `param` is the one to change."""
    return PydanticCustomError("mismatch", "{message}", {"message": message, "param": param})


def text_part_only(value: Any) -> Any:
    """A part of a message's content, refused by its kind before its fields are looked at."""
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind != "text":
        raise PydanticCustomError(
            UNSUPPORTED, "is of type {kind}, which is not supported; send text", {"kind": kind[:50]}
        )
    return value
