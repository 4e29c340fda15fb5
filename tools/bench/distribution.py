"""How values lie: median, quartiles, least and greatest. One definition for all reports."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median, quantiles, stdev
from typing import Any

DIGITS = 4


def distribution(values: Sequence[float]) -> dict[str, Any]:
    """`median`, `quartiles` [first, third], `range` [least, greatest] and `count` of at least one value.

    Quartiles lie between neighbours where no value does (method "inclusive": the least value is the 0 % point and the
    greatest the 100 % point); those of a lone value are the value.
    """
    first, third = (values[0], values[0]) if len(values) == 1 else quantiles(values, n=4, method="inclusive")[::2]
    return {
        "median": round(median(values), DIGITS),
        "quartiles": [round(first, DIGITS), round(third, DIGITS)],
        "range": [round(min(values), DIGITS), round(max(values), DIGITS)],
        "count": len(values),
    }


def mean_and_deviation(values: Sequence[float]) -> dict[str, Any]:
    """`mean`, `sd` (of a sample, with n - 1; None for a lone value) and the `runs` themselves."""
    return {
        "mean": round(sum(values) / len(values), DIGITS),
        "sd": round(stdev(values), DIGITS) if len(values) > 1 else None,
        "runs": [round(value, DIGITS) for value in values],
    }
