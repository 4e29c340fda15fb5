"""What is not a target is refused, by field."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from learning_cases import as_hybrid, targets
from torch import Tensor

from paceline.trainer.learning.objectives.hybrid import HybridTargets
from paceline.trainer.learning.targets import Targets
from paceline.wire.errors import PacelineError, Reason

GOOD: dict[str, Any] = {
    "tokens": torch.tensor([1, -1]),
    "top_ids": torch.tensor([[1, 2], [3, -1]]),
    "top_log_probs": torch.tensor([[0.5, 0.25], [0.125, 0.0]]).log(),
    "temperature": 1.0,
    "vocab_size": 5,
}


def changed(values: Tensor, row: int, column: int, value: float) -> Tensor:
    values = values.clone()
    values[row, column] = value
    return values


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("tokens", torch.tensor([1, 5]), Reason.OUT_OF_RANGE),
        ("tokens", torch.tensor([1, -2]), Reason.OUT_OF_RANGE),
        ("tokens", torch.tensor([1.0, 2.0]), Reason.MALFORMED),
        ("tokens", torch.tensor([[1, 2]]), Reason.MALFORMED),
        ("top_ids", torch.tensor([[1, 5], [3, -1]]), Reason.OUT_OF_RANGE),
        ("top_ids", torch.tensor([[1, 1], [3, -1]]), Reason.MALFORMED),
        ("top_ids", torch.tensor([[1, 2]]), Reason.MALFORMED),
        ("top_log_probs", changed(GOOD["top_log_probs"], 0, 0, math.nan), Reason.MALFORMED),
        ("top_log_probs", changed(GOOD["top_log_probs"], 0, 0, -math.inf), Reason.MALFORMED),
        ("top_log_probs", changed(GOOD["top_log_probs"], 1, 1, -1.0), Reason.MALFORMED),
        ("top_log_probs", changed(GOOD["top_log_probs"], 0, 0, 0.0), Reason.OUT_OF_RANGE),
        ("temperature", 0.0, Reason.OUT_OF_RANGE),
        ("temperature", math.nan, Reason.OUT_OF_RANGE),
        ("vocab_size", 3, Reason.OUT_OF_RANGE),
    ],
)
def test_what_is_no_target_is_refused_by_name(field: str, value: Any, reason: Reason) -> None:
    Targets(**GOOD)
    with pytest.raises(PacelineError) as raised:
        Targets(**{**GOOD, field: value})
    assert raised.value.reason is reason
    assert raised.value.field == {"vocab_size": "top_ids"}.get(field, field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("begins", torch.tensor([1, 0])),
        ("run_weights", torch.tensor([0.2])),
        ("run_weights", torch.tensor([0.2, -0.1])),
        ("run_weights", torch.tensor([0.2, math.inf])),
    ],
)
def test_what_is_no_hybrid_target_is_refused_by_name(field: str, value: Tensor) -> None:
    good = {**GOOD, "begins": torch.tensor([True, False]), "run_weights": torch.tensor([0.0, 0.2])}
    HybridTargets(**good)
    with pytest.raises(PacelineError) as raised:
        HybridTargets(**{**good, field: value})
    assert raised.value.field == field


def test_rows_are_the_same_positions_of_every_field() -> None:
    whole = as_hybrid(targets(0, 6, 9, 3))
    part = whole.rows(2, 5)
    assert isinstance(part, HybridTargets)
    assert len(part) == 3
    for name in ("tokens", "top_ids", "top_log_probs", "begins", "run_weights"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[2:5])
    assert (part.temperature, part.vocab_size) == (whole.temperature, whole.vocab_size)
