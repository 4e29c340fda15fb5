"""The files of figures that a report is made of, by part."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from result_acceptance import Acceptance
from result_adaptation import Adaptation
from result_base import Result
from result_routing import Routing
from result_speed import Speed
from rounds import BenchError

KINDS: dict[str, type[Result]] = {
    "speed": Speed,
    "acceptance": Acceptance,
    "routing": Routing,
    "adaptation": Adaptation,
}
PARTS = tuple(KINDS)


def read_result(part: str, content: Any) -> Result:
    """The figures of a part. BenchError names the field that is wrong."""
    try:
        return KINDS[part].model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:200]
        raise BenchError(f"{part}: {where or 'the file'}: {first['msg'][:300]}") from None
