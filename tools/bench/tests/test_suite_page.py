"""The report: figures in their places, what failed and what is missing in plain view, nothing hostile let through."""

from __future__ import annotations

from typing import Any

import pytest
from page_checks import Checked, shown
from page_html import html_of
from suite import PartOutcome, Suite
from suite_page import page_of
from suite_results import PARTS
from suite_samples import done, sample, whole_suite

HOSTILE = "<script>alert('x')</script>\"'&$x_{$\n\x00"
KEPT = {"system", "processor", "paceline_on", "paceline_off", "on_over_off", "paceline", "online", "frozen", "segments"}


def page_for(suite: Suite) -> str:
    return html_of(page_of(suite))


def poisoned(value: Any) -> Any:
    """All texts replaced, and those names added to each object whose names are data."""
    if isinstance(value, dict):
        return {name: poisoned(its) for name, its in value.items()}
    if isinstance(value, list):
        return [poisoned(its) for its in value]
    return HOSTILE if isinstance(value, str) else value


def renamed(value: dict[str, Any]) -> dict[str, Any]:
    return {(name if name in KEPT else f"{name}{HOSTILE}"): its for name, its in value.items()}


def test_everything_that_was_measured_is_shown() -> None:
    page = page_for(whole_suite())
    words = shown(page)
    for heading in ("Speed", "Acceptance", "Routing", "Adaptation", "Machine, versions, commands"):
        assert heading in words
    speed = sample("speed")
    assert f"{speed['ratios']['on_over_off']['all']:.2f} x" in words
    for group, (low, high) in speed["spread"]["tokens_per_second"]["paceline_on"].items():
        assert f"{low:.1f} – {high:.1f}" in words, group
    for group, its in speed["spec_bench"]["speedup"].items():
        assert f"{its['mean']:.2f} ± {its['sd']:.2f}" in words, group
    for mix, its in sample("acceptance")["mixes"].items():
        assert f"{mix} {its['tokens_per_step']:.2f}" in words
    assert f"{speed['machine']['processor']}, {speed['machine']['cores']} cores" in words
    for name, version in speed["versions"].items():
        assert f"{name} {version}" in words
    for part in PARTS:
        assert f"./bazelw run //tools/bench:{part} -- " in words
        assert sample(part)["started"][:10] in words
    assert Checked(page).counts["svg"] == 6
    assert len(page) < 1_000_000


def test_what_was_not_run_is_in_plain_view() -> None:
    suite = Suite(
        [PartOutcome("speed", "not run", "it needs --questions FILE"), done("routing")], notes=["this and that"]
    )
    words = shown(page_for(suite))
    for expected in (
        "speed: it needs --questions FILE",
        "left out by --quick: this and that",
        "routing, scenes: stationary, many",
        "other machines and models",
    ):
        assert expected in words
    assert words.index("it needs --questions FILE") < words.index("Regret")


def test_one_repeat_has_no_spread_and_says_so() -> None:
    suite = whole_suite(speed={"repeat": 1, "repeats": sample("speed")["repeats"][:1]})
    words = shown(page_for(suite))
    assert "one repeat: no spread known" in words
    assert "speed, the spread of speeds: there was one repeat" in words


def test_a_part_that_failed_has_its_last_words_first_and_the_others_their_figures() -> None:
    failed = PartOutcome("speed", "failed", "it ended with exit code 1:\nno <such> model")
    words = shown(page_for(Suite([failed, done("routing")])))
    assert words.index("speed failed: it ended with exit code 1") < words.index("What was run")
    assert "no <such> model" in words
    assert "Regret against the oracle" in words


def test_answers_that_changed_are_said_first() -> None:
    different = [{"question_id": "q7", "turn": 0, "token": 3}]
    suite = whole_suite(speed={"identical": {"paceline": [6, 7]}, "different": different})
    page = page_for(suite)
    words = shown(page)
    assert "Speculation changed answers: 6 of 7 are identical" in words
    assert "question q7, turn 1: from token 3 on" in words
    assert '<div class="tile bad"><span>identical answers' in page


def test_a_busy_machine_is_said_first() -> None:
    words = shown(page_for(Suite([done("routing", others=1.3)])))
    assert words.index("other programs used 1.30 of 2 while routing ran") < words.index("What was run")
    assert "The machine was busy" not in shown(page_for(Suite([done("routing", others=0.02)])))


def test_different_machines_are_said_first() -> None:
    other = {**sample("routing")["machine"], "processor": "Another One"}
    words = shown(page_for(whole_suite(routing={"machine": other})))
    assert words.index("measured on different machines") < words.index("What was run")


def test_files_of_earlier_versions_are_read() -> None:
    content = sample("speed")
    for name in ("by_question", "spec_bench", "repeats", "asked", "command", "started", "ended"):
        del content[name]
    words = shown(page_for(Suite([done("speed", content)])))
    assert "the file is of an earlier version of the tool" in words


@pytest.mark.parametrize("part", PARTS)
def test_hostile_texts_are_shown_and_not_obeyed(part: str) -> None:
    page = page_for(Suite([done(part, poisoned(sample(part)))], HOSTILE))
    assert not Checked(page).faults
    assert "<script" not in page
    page.encode("utf-8")


@pytest.mark.parametrize(
    ("part", "field"),
    [("speed", "tokens_per_second"), ("acceptance", "mixes"), ("routing", "scenes"), ("adaptation", "domains")],
)
def test_hostile_names_are_shown_and_not_obeyed(part: str, field: str) -> None:
    content = sample(part)
    content[field] = renamed(content[field])
    if part == "speed":
        content[field] = {name: renamed(its) for name, its in content[field].items()}
        content["concurrency"] = renamed(content["concurrency"])
    if part == "acceptance":
        for mix in content[field].values():
            mix["drafters"] = renamed(mix["drafters"])
    page = page_for(Suite([done(part, content)]))
    checked = Checked(page)
    assert not checked.faults
    assert "<script>alert('x')" in checked.words
    page.encode("utf-8")


def test_a_report_of_nothing_is_a_report() -> None:
    words = shown(page_for(Suite([PartOutcome(part, "not run", "because") for part in PARTS])))
    assert "nothing was measured" in words
