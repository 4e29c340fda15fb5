"""From options to the command lines of the parts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import acceptance
import adaptation
import pytest
import routing
import speed
import typer
from rounds import BenchError
from suite_plan import FULL, QUICK, SuitePlan, arguments_of, chosen_parts
from suite_results import PARTS
from typer.main import get_command

MAINS = {"speed": speed.main, "acceptance": acceptance.main, "routing": routing.main, "adaptation": adaptation.main}
PLAN = SuitePlan(PARTS, FULL, Path("/q.jsonl"), Path("/p.jsonl"), "m", "bfloat16", "suffix", "suffix; recycling")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("size", [FULL, QUICK])
def test_each_tool_understands_what_it_is_asked(part: str, size: object) -> None:
    app = typer.Typer()
    app.command()(MAINS[part])
    plan = replace(PLAN, size=size, revision=Path("/r"), verifier_arguments="--threads 1")
    context = get_command(app).make_context(part, arguments_of(part, plan))
    assert not context.args


def test_parts_come_in_their_own_order() -> None:
    assert chosen_parts("") == list(PARTS)
    assert chosen_parts("routing, speed") == ["speed", "routing"]
    with pytest.raises(BenchError, match="--only names 'cooking'"):
        chosen_parts("speed,cooking")


def test_a_part_without_its_file_says_which_it_needs() -> None:
    bare = replace(PLAN, questions=None, prompts=None)
    assert [bare.missing(part) for part in PARTS] == [
        "it needs --questions FILE",
        "it needs --questions FILE",
        "",
        "it needs --prompts FILE",
    ]
    assert not any(map(PLAN.missing, PARTS))


def test_quick_is_less_of_everything_and_still_has_a_spread() -> None:
    assert QUICK.repeat >= 3
    assert QUICK.seeds >= 3
    assert (QUICK.limit or 0) >= 6
    for name in ("repeat", "max_new_tokens", "segments", "seeds", "tokens", "held_out", "bootstrap_prompts"):
        assert getattr(QUICK, name) < getattr(FULL, name)
