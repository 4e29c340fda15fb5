"""The dashboard asks for series that there are, and has what Grafana needs to show it."""

from __future__ import annotations

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from catalogue import all_series, read_catalogue
from expressions import ExpressionError, labels_of, names_in
from make_dashboard import WIDTH, as_text

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
HERE = ROOT / "tools" / "observability"
SERIES = all_series(read_catalogue(ROOT / "docs" / "metrics.md"))
DASHBOARD: dict[str, Any] = json.loads((HERE / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(panel, target) for panel in PANELS for target in panel["targets"]]


def test_the_file_is_what_its_program_writes() -> None:
    assert (HERE / "dashboard.json").read_text() == as_text(), "run make_dashboard.py > dashboard.json"


@pytest.mark.parametrize(
    ("panel", "target"), TARGETS, ids=lambda value: value.get("title", value.get("refId")) if value else ""
)
def test_every_query_is_about_what_there_is(panel: dict[str, Any], target: dict[str, Any]) -> None:
    labels = labels_of(target["expr"], SERIES)
    assert set(re.findall(r"{{\s*(\w+)\s*}}", target["legendFormat"])) <= labels, panel["title"]


def test_grafana_has_what_it_needs() -> None:
    assert DASHBOARD["title"]
    assert DASHBOARD["uid"]
    assert DASHBOARD["schemaVersion"] >= 36
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert (variables["datasource"]["type"], variables["datasource"]["query"]) == ("datasource", "prometheus")
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in PANELS:
        assert panel["type"] in ("timeseries", "stat", "table")
        assert panel["targets"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for target in panel["targets"]:
            assert target["datasource"] == panel["datasource"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= {*variables, "__rate_interval"}
    asked = re.search(r"label_values\(([^,]+), (\w+)\)", variables["instance"]["definition"])
    assert asked is not None
    assert asked[1] in SERIES


def test_panels_lie_beside_each_other() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    for place in places:
        assert 0 <= place["x"] <= place["x"] + place["w"] <= WIDTH
        assert place["h"] > 0
    for one, other in itertools.combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)


def test_each_service_has_its_place() -> None:
    """What people look at first is there: of every section at least one metric is shown."""
    shown = set().union(*(names_in(target["expr"]) for _, target in TARGETS))
    for section, metrics in read_catalogue(ROOT / "docs" / "metrics.md").items():
        if section != "Under vLLM's names":
            names = {name.rsplit("_bucket", 1)[0] for name in shown}
            assert names & metrics.keys(), section


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("sum(rate(paceline:nothing_total[5m]))", "no series"),
        ("paceline:generation_tokens_total", "only grows"),
        ("rate(paceline:num_requests_running[5m])", "goes up and down"),
        ('paceline:num_requests_running{drafter="x"}', "no label drafter"),
        ("sum by (drafter) (paceline:num_requests_running)", "grouped by drafter"),
        ("histogram_quantile(0.9, sum(rate(paceline:step_seconds_bucket[5m])))", "needs the label le"),
        (
            "sum by (drafter) (paceline:drafters_connected) / sum by (instance) (paceline:num_requests_running)",
            "never match",
        ),
        ("sum(", "unclosed"),
    ],
)
def test_what_could_show_nothing_is_found(expression: str, why: str) -> None:
    with pytest.raises(ExpressionError, match=why):
        labels_of(expression, SERIES)
