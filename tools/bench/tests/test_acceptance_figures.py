"""From counters to figures, with numbers that can be checked by hand."""

from __future__ import annotations

from typing import Any

import pytest
from acceptance_figures import BYTES, DRAFTS, RIGHT, RIGHT_OF, SECONDS, STEPS, TESTED, TESTED_OF, mix_figures
from counters import Counters
from figures import OFF, ON, Measurement


def counters(*entries: tuple[str, float, dict[str, Any]]) -> Counters:
    return Counters(
        {(name, frozenset((key, str(of)) for key, of in labels.items())): value for name, value, labels in entries}
    )


def answer(system: str, question: str, ids: tuple[int, ...], steps: int = 0, group: str = "qa") -> Measurement:
    return Measurement(system, question, group, 0, 0, ids, 1.0, steps)


MEASURED = [
    answer(OFF, "1", (1, 2, 3, 4, 5, 6)),
    answer(OFF, "2", (7, 8, 9, 10), group="rag"),
    answer(ON, "1", (1, 2, 3, 4, 5, 6), steps=2),
    answer(ON, "2", (7, 8, 0, 10), steps=2, group="rag"),
]
A = {"drafter": "a", "strategy": "suffix"}
B = {"drafter": "b", "strategy": "recycling"}
COUNTED = counters(
    (STEPS, 4, {}),
    (DRAFTS, 3, {}),
    (TESTED, 8, {"position": 0}),
    (RIGHT, 3, {"position": 0}),
    (TESTED, 2, {"position": 1}),
    (RIGHT, 1, {"position": 1}),
    (TESTED, 1, {"position": 2}),
    (TESTED_OF, 6, {**A, "position": 0}),
    (RIGHT_OF, 3, {**A, "position": 0}),
    (TESTED_OF, 4, {**B, "position": 0}),
    (SECONDS, 0.004, {"drafter": "a"}),
    (SECONDS, 0.001, {"drafter": "b"}),
    (BYTES, 300, {"drafter": "a", "direction": "received"}),
    (BYTES, 100, {"drafter": "a", "direction": "sent"}),
    (BYTES, 50, {"drafter": "b", "direction": "sent"}),
    (BYTES, 0, {"drafter": "of another mix", "direction": "sent"}),
)


def test_a_mix_by_hand() -> None:
    figures = mix_figures(COUNTED, MEASURED)
    assert figures["tokens_per_step"] == 2.0  # five and three tokens after the first, four steps
    assert figures["tokens_per_step_by_group"] == {"qa": 2.5, "rag": 1.5}
    assert figures["acceptance_by_depth"] == [0.375, 0.5, 0.0]
    assert figures["tested_by_depth"] == [8, 2, 1]
    assert figures["tokens_by_depth"] == [0.75, 0.25]
    assert 1 + sum(figures["tokens_by_depth"]) == figures["tokens_per_step"]
    assert figures["drafted_steps"] == 0.75
    assert figures["draft_ms_per_token"] == 0.5
    assert figures["wire_bytes_per_token"] == 45.0
    assert figures["identical"] == [1, 2]
    assert figures["different"] == [{"question_id": "2", "turn": 0, "token": 2}]
    assert figures["tokens"] == 10


def test_each_drafters_part() -> None:
    drafters = mix_figures(COUNTED, MEASURED)["drafters"]
    assert set(drafters) == {"a", "b"}
    assert drafters["a"]["draft_ms_per_token"] == 0.4
    assert drafters["a"]["wire_bytes_per_token"] == {"received": 30.0, "sent": 10.0}
    assert drafters["a"]["strategies"] == {
        "suffix": {"tested": 6, "right": 3, "acceptance": 0.5, "acceptance_by_depth": [0.5]}
    }
    assert drafters["b"]["strategies"]["recycling"]["acceptance_by_depth"] == [0.0]


def test_a_drafter_that_proposed_nothing_has_its_place() -> None:
    counted = counters((STEPS, 4, {}), (BYTES, 40, {"drafter": "a", "direction": "sent"}))
    figures = mix_figures(counted, MEASURED)
    assert figures["acceptance_by_depth"] == figures["tokens_by_depth"] == []
    assert figures["drafters"]["a"]["strategies"] == {}
    assert figures["draft_ms_per_token"] == 0.0


@pytest.mark.parametrize("system", [OFF, ON])
def test_answers_of_one_kind_only_are_no_comparison(system: str) -> None:
    with pytest.raises(KeyError):
        mix_figures(COUNTED, [answer(system, "1", (1, 2))])
