"""Two reports compared, by hand."""

from __future__ import annotations

import json

import pytest
from page_checks import shown
from page_html import html_of
from rounds import BenchError
from suite import Suite, machine_id
from suite_against import chance_of_parting, compare_suites, difference
from suite_figures import Figure, figures_of
from suite_json import read_suite, suite_json
from suite_page import page_of
from suite_samples import done, sample, whole_suite


def figure(value: float, low: float | None, high: float | None, better: str = "higher") -> Figure:
    return Figure("speed", "on ÷ off", "all", value, low, high, 1 if low is None else 3, better)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("earlier", "later", "verdict"),
    [
        (figure(2.0, 1.9, 2.1), figure(3.0, 2.2, 3.1), "better"),
        (figure(2.0, 1.9, 2.1), figure(1.0, 0.9, 1.8), "worse"),
        (figure(2.0, 1.9, 2.1), figure(3.0, 2.1, 3.1), "within the spread"),
        (figure(2.0, 1.9, 2.1), figure(3.0, None, None), "no spread"),
        (figure(2.0, None, None), figure(3.0, 2.9, 3.1), "no spread"),
        (figure(0.2, 0.1, 0.3, "lower"), figure(0.5, 0.4, 0.6, "lower"), "worse"),
        (figure(0.5, 0.4, 0.6, "lower"), figure(0.2, 0.1, 0.3, "lower"), "better"),
    ],
)
def test_a_difference_counts_where_the_ranges_do_not_meet(earlier: Figure, later: Figure, verdict: str) -> None:
    assert difference(earlier, later).verdict == verdict


def test_a_change_is_relative_to_what_was() -> None:
    assert difference(figure(2.0, 1.9, 2.1), figure(3.0, 2.2, 3.1)).change == 0.5
    assert difference(figure(0.0, 0.0, 0.0), figure(3.0, 2.2, 3.1)).change is None


def test_how_often_equal_runs_come_apart_by_chance() -> None:
    assert chance_of_parting(3, 3) == pytest.approx(0.1)  # 2 of the 20 ways to deal 3 of 6
    assert chance_of_parting(1, 1) == 1.0
    assert chance_of_parting(5, 5) == pytest.approx(2 / 252)


def test_a_report_beside_itself_differs_in_nothing() -> None:
    suite = whole_suite()
    comparison = compare_suites(suite, suite)
    assert not comparison.obstacles
    assert not comparison.missing
    assert len(comparison.differences) == len(figures_of(suite)) > 20
    assert {one.verdict for one in comparison.differences} == {"within the spread", "no spread"}
    assert {one.change for one in comparison.differences} <= {0.0, None}


def test_another_machine_is_said_loudly_and_nothing_is_compared() -> None:
    other = {**sample("speed")["machine"], "processor": "Another One"}
    changed = whole_suite(**{part: {"machine": other} for part in ("speed", "acceptance", "routing", "adaptation")})
    comparison = compare_suites(changed, whole_suite())
    assert set(comparison.obstacles) == {""}
    assert not comparison.differences
    page = shown(html_of(page_of(whole_suite(), comparison)))
    assert "NOT COMPARABLE: the machines differ" in page
    assert "Another One" in page


def test_another_kernel_is_the_same_machine_and_fewer_cores_are_not() -> None:
    machine = sample("speed")["machine"]
    assert machine_id({**machine, "system": "Linux 9"}) == machine_id(machine)
    assert machine_id({**machine, "cores": 1}) != machine_id(machine)


def test_other_conditions_leave_out_that_part_only() -> None:
    comparison = compare_suites(whole_suite(speed={"max_new_tokens": 5, "dtype": "float32"}), whole_suite())
    assert comparison.obstacles == {"speed": "it was measured under other conditions: dtype, max_new_tokens"}
    assert {one.later.part for one in comparison.differences} == {"acceptance", "routing", "adaptation"}


def test_a_part_that_one_lacks_or_that_was_cut_short_is_not_compared() -> None:
    comparison = compare_suites(Suite([done("speed")]), whole_suite(speed={"complete": False}))
    assert comparison.obstacles["speed"] == "the new one was not measured to its end"
    assert comparison.obstacles["routing"] == "only the new report has it"
    assert not comparison.differences


def test_what_became_worse_is_in_the_report_and_in_its_json() -> None:
    slower = sample("speed")
    scale = {
        name: {group: 0.01 * value for group, value in of.items()} for name, of in slower["tokens_per_second"].items()
    }
    spread = {
        name: {group: [0.01 * limit for limit in limits] for group, limits in of.items()}
        for name, of in slower["spread"]["tokens_per_second"].items()
    }
    changed = {"tokens_per_second": scale, "spread": {**slower["spread"], "tokens_per_second": spread}}
    suite = whole_suite(speed=changed)
    comparison = compare_suites(whole_suite(), suite)
    content = json.loads(json.dumps(suite_json(suite, comparison)))
    worse = [one for one in content["against"]["differences"] if one["verdict"] == "worse"]
    assert {one["name"] for one in worse} == {"tokens/s, speculation on", "tokens/s, speculation off"}
    assert worse[0]["change"] == -0.99
    page = shown(html_of(page_of(suite, comparison)))
    assert "14 worse" in page
    assert "-99.0 %" in page


def test_a_report_is_read_back_as_it_was_written() -> None:
    suite = whole_suite()
    again = read_suite(json.loads(json.dumps(suite_json(suite))))
    assert figures_of(again) == figures_of(suite)
    assert again.command == suite.command


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "its format is not"),
        ({"format": "paceline-bench-1", "parts": []}, "'parts' is no object"),
        ({"format": "paceline-bench-1", "parts": {"routing": {"result": {"seeds": []}}}}, "routing"),
    ],
)
def test_what_is_no_report_is_refused(content: dict[str, object], words: str) -> None:
    with pytest.raises(BenchError, match=words):
        read_suite(content)
