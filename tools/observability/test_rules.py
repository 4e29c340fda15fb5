"""Prometheus' rules ask for series that there are, and its example finds every kind of process."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from catalogue import Series, all_series, read_catalogue
from expressions import EVERYWHERE, labels_of, names_in

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
HERE = ROOT / "tools" / "observability"
GROUPS: list[dict[str, Any]] = yaml.safe_load((HERE / "rules.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
RECORDED = [rule for rule in RULES if "record" in rule]
ALERTS = [rule for rule in RULES if "alert" in rule]
DURATION = re.compile(r"(\d+(ms|s|m|h|d))+")


def known() -> dict[str, Series]:
    """What services show, and what rules before have recorded."""
    series = all_series(read_catalogue(ROOT / "docs" / "metrics.md"))
    for rule in RECORDED:
        series[rule["record"]] = Series(labels_of(rule["expr"], series) - EVERYWHERE, grows=False)
    return series


SERIES = known()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("record") or rule["alert"])
def test_every_rule_is_about_what_there_is(rule: dict[str, Any]) -> None:
    labels = labels_of(rule["expr"], SERIES)
    texts = " ".join(rule.get("annotations", {}).values())
    assert set(re.findall(r"\$labels\.(\w+)", texts)) <= labels


def test_rules_have_what_prometheus_needs() -> None:
    names = [group["name"] for group in GROUPS]
    assert len(set(names)) == len(names)
    assert len(RECORDED) + len(ALERTS) == len(RULES)
    for rule in RECORDED:
        assert set(rule) == {"record", "expr"}
        # What level, what metric, what was done: so nobody takes it for a service's own.
        assert re.fullmatch(r"[a-z]+:paceline_[a-z_]+:[a-z0-9_]+", rule["record"])
    for rule in ALERTS:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert DURATION.fullmatch(rule.get("for", "0s"))
    assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)


def test_what_is_recorded_by_drafter_keeps_its_drafter() -> None:
    for name, series in SERIES.items():
        if name.startswith("drafter:"):
            assert series.labels == {"drafter"}


def test_the_alerts_that_people_count_on_are_there() -> None:
    asked = set().union(*(names_in(rule["expr"]) for rule in ALERTS))
    assert asked >= {
        "up",
        "paceline:router_verifiers_available",
        "paceline:num_requests_waiting",
        "drafter:paceline_acceptance:ratio5m",
        "paceline:step_failures_total",
        "paceline:drafters_quarantined",
        "paceline:refit_last_turn_timestamp_seconds",
        "paceline:router_store_up",
    }


def test_the_example_scrapes_every_kind_of_process_and_loads_the_rules() -> None:
    config = yaml.safe_load((HERE / "prometheus.yaml").read_text())
    assert config["rule_files"] == ["rules.yaml"]
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert set(jobs) == {f"paceline-{name}" for name in ("router", "verifier", "drafter", "trainer", "refit")}
    for job in jobs.values():
        for target in job["static_configs"][0]["targets"]:
            assert re.fullmatch(r"[a-z0-9.-]+:\d+", target)
    (down,) = (rule for rule in ALERTS if rule["alert"] == "PacelineProcessDown")
    pattern = re.search(r'job=~"([^"]+)"', down["expr"])
    assert pattern is not None
    assert all(re.fullmatch(pattern[1], name) for name in jobs)
