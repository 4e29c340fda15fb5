"""Checks a PromQL expression against the series that there are: names, labels, and rates of what only grows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import promql_parser
from catalogue import Series

EVERYWHERE = frozenset({"job", "instance"})
RATES = frozenset({"rate", "irate", "increase", "resets"})
VARIABLES = {
    "$__rate_interval": "5m",
    "$__interval": "1m",
    "$__range": "1h",
}  # Grafana's, where PromQL wants a duration


class ExpressionError(Exception):
    """It doesn't parse, or asks for what isn't there."""


def labels_of(expression: str, known: Mapping[str, Series]) -> frozenset[str]:
    """The labels that its results have. Raises ExpressionError."""
    for variable, duration in VARIABLES.items():
        expression = expression.replace(variable, duration)
    try:
        parsed = promql_parser.parse(expression)
    except ValueError as error:
        raise ExpressionError(f"{expression}: {error}") from None
    return _labels(parsed, known, rated=False)


def names_in(expression: str) -> set[str]:
    """The metrics that it asks for."""
    for variable, duration in VARIABLES.items():
        expression = expression.replace(variable, duration)
    found: set[str] = set()
    pending: list[Any] = [promql_parser.parse(expression)]
    while pending:
        node = pending.pop()
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)
        pending += _parts(node)
    return found


def _parts(node: Any) -> list[Any]:
    one = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "vector_selector", "param")]
    return [part for part in (*one, *getattr(node, "args", ())) if part is not None]


def _labels(node: Any, known: Mapping[str, Series], rated: bool) -> frozenset[str]:
    match node:
        case promql_parser.VectorSelector():
            return _selected(node, known, rated)
        case promql_parser.MatrixSelector():
            return _labels(node.vector_selector, known, rated)
        case promql_parser.AggregateExpr():
            return _aggregated(node, known, rated)
        case promql_parser.Call():
            return _called(node, known)
        case promql_parser.BinaryExpr():
            return _joined(node, known, rated)
    parts = [_labels(part, known, rated) for part in _parts(node)]
    return frozenset().union(*parts)


def _selected(node: Any, known: Mapping[str, Series], rated: bool) -> frozenset[str]:
    series = known.get(node.name)
    if series is None:
        raise ExpressionError(f"there is no series {node.name}")
    if series.grows and not rated:
        raise ExpressionError(f"{node.name} only grows: ask for its rate")
    if rated and not series.grows:
        raise ExpressionError(f"{node.name} goes up and down: it has no rate")
    labels = series.labels | EVERYWHERE
    for matcher in node.matchers.matchers:
        if matcher.name not in labels:
            raise ExpressionError(f"{node.name} has no label {matcher.name}")
    return labels


def _aggregated(node: Any, known: Mapping[str, Series], rated: bool) -> frozenset[str]:
    inner = _labels(node.expr, known, rated)
    if node.modifier is None:
        return inner if str(node.op) in ("topk", "bottomk") else frozenset()
    asked = frozenset(node.modifier.labels)
    if missing := asked - inner:
        raise ExpressionError(f"grouped by {', '.join(sorted(missing))}, which what is grouped hasn't")
    return asked if node.modifier.type == promql_parser.AggModifierType.By else inner - asked


def _called(node: Any, known: Mapping[str, Series]) -> frozenset[str]:
    name = node.func.name
    inner = frozenset().union(*(_labels(part, known, name in RATES) for part in node.args))
    if name == "histogram_quantile":
        if "le" not in inner:
            raise ExpressionError("a quantile needs the label le")
        return inner - {"le"}
    return inner


def _joined(node: Any, known: Mapping[str, Series], rated: bool) -> frozenset[str]:
    left, right = (_labels(part, known, rated) for part in (node.lhs, node.rhs))
    modifier = node.modifier
    if modifier is not None and modifier.matching is not None:
        asked = frozenset(modifier.matching.labels)
        if modifier.matching.type == promql_parser.LabelModifierType.Include and not asked <= left & right:
            raise ExpressionError(f"joined on {', '.join(sorted(asked))}, which a side hasn't")
        return left | right
    both = left and right
    if both and left != right and not _is_number(node.lhs) and not _is_number(node.rhs):
        raise ExpressionError(f"sides with the labels {sorted(left)} and {sorted(right)} never match")
    return left | right


def _is_number(node: Any) -> bool:
    return isinstance(node, promql_parser.NumberLiteral)
