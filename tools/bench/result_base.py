"""What the report reads of files that measuring tools write, checked field by field: what all have in common.

Files may be old, cut short or made by somebody else. What a report doesn't show isn't asked for, and what came in
later versions may be absent.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field

MOST = 300  # entries of a table
MOST_SIGNS = 2000  # of a name
Number = Annotated[float, Field(allow_inf_nan=False, ge=-1e15, le=1e15)]
Count = Annotated[int, Field(ge=0, le=10**15)]
Name = Annotated[str, Field(max_length=MOST_SIGNS)]
Words = Annotated[str, Field(max_length=100_000)]
Pair = Annotated[list[Number], Field(min_length=2, max_length=2)]
Counts = Annotated[list[Count], Field(min_length=2, max_length=2)]
Series = Annotated[list[Number], Field(max_length=100_000)]

V = TypeVar("V")
Named = Annotated[dict[Name, V], Field(max_length=MOST)]
Rates = Named[Named[Number]]
Ranges = Named[Named[Pair]]


class Known(BaseModel):
    """Fields of later versions are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Machine(Known):
    processor: Name = ""
    cores: Count | None = None
    memory_gib: Number | None = None
    flags: list[Name] = Field(default_factory=list)
    system: Name = ""


class Result(Known):
    """What the files of all tools have in common."""

    machine: Machine = Machine()
    versions: Named[Name] = Field(default_factory=dict)
    command: Words = ""
    started: Name = ""
    ended: Name = ""
    complete: bool = True
    model: Words = ""
    dtype: Name = ""
