"""docs/errors.md tells every reason and every code that a client may meet, with the status that they have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest
from pages import ROOT

from paceline.router.http.errors import failure_of
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.status import CODES

PAGE = (ROOT / "docs" / "errors.md").read_text()
HTTP = ROOT / "packages" / "router" / "src" / "paceline" / "router" / "http"


def codes_in(tree: ast.AST) -> Iterator[str]:
    """Codes that a module writes down: as an argument `code=…`, in a table of codes, or as such a table's default."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "code":
            yield from _strings(node.value)
        elif isinstance(node, ast.Assign) and _is_table(node.targets[0]) and isinstance(node.value, ast.Dict):
            yield from _strings(*node.value.values)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_table(node.func.value):
            yield from _strings(*node.args[1:])


def _is_table(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id.lower().endswith("codes")


def _strings(*nodes: ast.expr) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_reason_has_an_entry_and_every_entry_is_a_reason() -> None:
    assert sorted(re.findall(r"^### ([A-Z_]+)$", PAGE, re.MULTILINE)) == sorted(Reason.__members__)


@pytest.mark.parametrize("reason", Reason)
def test_an_entry_tells_its_status_and_what_to_do(reason: Reason) -> None:
    entry = PAGE.split(f"### {reason.value}\n")[1].split("\n## ")[0].split("\n### ")[0]
    failure = failure_of(PacelineError(reason, "why"))
    over_http = failure.status != 500 or reason is Reason.INTERNAL
    expected = f"gRPC `{CODES[reason].name}`" + (f", HTTP {failure.status} `{failure.code}`" if over_http else "")
    assert entry.startswith(f"\n{expected}. ")
    assert "*What to do:*" in entry


def test_every_code_of_http_is_there_and_no_other() -> None:
    modules = [ast.parse(path.read_text()) for path in sorted(HTTP.glob("*.py"))]
    written = {code for module in modules for code in codes_in(module)}
    of_reasons = {failure_of(PacelineError(reason, "why")).code for reason in Reason}
    assert len(written) > 12
    told = set(re.findall(r"^\| \d{3} \| `(\w+)` \|", PAGE, re.MULTILINE))
    told |= set(re.findall(r"HTTP \d{3} `(\w+)`", PAGE))
    assert told == written | of_reasons
