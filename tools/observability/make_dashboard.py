"""Writes dashboard.json: the panels of the Grafana dashboard, a line or two each.

python3 make_dashboard.py > dashboard.json
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

WIDTH = 24
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HERE = '{instance=~"$instance"}'


@dataclass(frozen=True, slots=True)
class Query:
    """An expression, and what its lines are called."""

    expr: str
    legend: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph. kind: timeseries, stat or table."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    width: int = 8
    kind: str = "timeseries"
    text: str = ""


def quantiles(metric: str, by: str = "", where: str = HERE) -> tuple[Query, ...]:
    """The median and the 95th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    name = f" {{{{{by}}}}}" if by else ""
    return tuple(
        Query(
            f"histogram_quantile({share}, sum by ({labels}) (rate(paceline:{metric}_bucket{where}[$__rate_interval])))",
            f"{words}{name}",
        )
        for share, words in (("0.5", "median"), ("0.95", "p95"))
    )


def rate(metric: str, by: str = "", legend: str = "", where: str = HERE) -> Query:
    """A counter's rate, summed."""
    grouped = f"sum by ({by})" if by else "sum"
    shown = legend or " ".join(f"{{{{{label.strip()}}}}}" for label in by.split(","))
    return Query(f"{grouped} (rate(paceline:{metric}{where}[$__rate_interval]))", shown)


def ratio(top: str, bottom: str, by: str, legend: str) -> Query:
    """One counter by another."""
    one, other = (f"sum by ({by}) (rate(paceline:{name}{HERE}[$__rate_interval]))" for name in (top, bottom))
    return Query(f"{one} / {other}", legend)


def gauge(metric: str, legend: str, by: str = "") -> Query:
    inner = f"paceline:{metric}{HERE}"
    return Query(f"sum by ({by}) ({inner})" if by else inner, legend)


PER_STEP = ratio("generation_tokens_total", "session_steps_total", "instance", "{{instance}}")
ROWS: dict[str, tuple[Panel, ...]] = {
    "Overview": (
        Panel("Tokens per second", "short", (rate("generation_tokens_total", legend="tokens"),), 4, "stat"),
        Panel("Tokens per step", "none", (PER_STEP,), 4, "stat", "1 is plain decoding."),
        Panel("Verifiers available", "none", (gauge("router_verifiers_available", "{{instance}}"),), 4, "stat"),
        Panel("Drafters connected", "none", (gauge("drafters_connected", "{{drafter}}", "drafter"),), 4, "stat"),
        Panel("Requests in progress", "none", (gauge("router_requests_running", "{{instance}}"),), 4, "stat"),
        Panel("Store", "none", (gauge("router_store_up", "{{instance}}"),), 4, "stat", "0: it can't be used."),
        Panel("Tokens per second", "short", (rate("generation_tokens_total", "instance"),)),
        Panel("Tokens per step", "none", (PER_STEP,), text="What speculation brings: 1 is plain decoding."),
        Panel("Requests per second", "reqps", (rate("router_requests_total", "outcome"),)),
        Panel("Time to first token, as clients see it", "s", quantiles("router_time_to_first_token_seconds", "model")),
        Panel("Whole answers, as clients see them", "s", quantiles("router_e2e_request_latency_seconds", "model")),
        Panel("Errors per second", "reqps", (rate("router_request_errors_total", "reason"),)),
    ),
    "Verifiers": (
        Panel("Step", "s", quantiles("step_seconds", "instance")),
        Panel("Between steps", "s", quantiles("step_gap_seconds", "instance")),
        Panel("Wait for drafts", "s", quantiles("draft_wait_seconds", "instance")),
        Panel("Rows of a step", "none", quantiles("step_rows", "instance")),
        Panel("Time between outputs", "s", quantiles("inter_token_latency_seconds", "instance")),
        Panel("Time in the queue", "s", quantiles("request_queue_time_seconds", "instance")),
        Panel(
            "Sessions",
            "none",
            (
                gauge("num_requests_running", "running {{instance}}"),
                gauge("num_requests_waiting", "waiting {{instance}}"),
            ),
        ),
        Panel(
            "Cache",
            "percentunit",
            (gauge("kv_cache_usage_perc", "held {{instance}}"), gauge("kv_cache_remembered_perc", "kept {{instance}}")),
        ),
        Panel(
            "Requests that ended, and steps that failed",
            "reqps",
            (
                rate("request_success_total", "finished_reason"),
                rate("step_failures_total", legend="failed steps"),
                rate("num_preemptions_total", legend="preemptions"),
            ),
        ),
        Panel("Prompts", "none", quantiles("request_prompt_tokens")),
        Panel("Answers", "none", quantiles("request_generation_tokens")),
        Panel(
            "Prompt tokens per second",
            "short",
            (rate("prompt_tokens_total", legend="all"), rate("prompt_tokens_cached_total", legend="from the cache")),
        ),
    ),
    "Drafters": (
        Panel(
            "Acceptance by drafter",
            "percentunit",
            (
                ratio(
                    "drafter_accepted_tokens_per_pos_total",
                    "drafter_draft_tokens_per_pos_total",
                    "drafter, strategy",
                    "{{drafter}} {{strategy}}",
                ),
            ),
            text="Of candidates whose parent was right, those that were right.",
        ),
        Panel(
            "Acceptance by depth",
            "percentunit",
            (
                ratio(
                    "spec_decode_num_accepted_tokens_per_pos_total",
                    "spec_decode_num_draft_tokens_per_pos_total",
                    "position",
                    "{{position}}",
                ),
            ),
        ),
        Panel("Candidates per second", "short", (rate("spec_decode_num_draft_tokens_total", "strategy"),)),
        Panel("Drafting, as drafters say", "s", quantiles("draft_seconds", "drafter")),
        Panel("Drafting by strategy", "s", quantiles("drafter_draft_seconds", "strategy")),
        Panel("Draft streams", "Bps", (rate("draft_stream_bytes_total", "drafter, direction"),)),
        Panel("In quarantine", "none", (gauge("drafters_quarantined", "{{drafter}}", "drafter"),)),
        Panel("Refusals per second", "reqps", (rate("drafter_refusals_total", "drafter, reason"),)),
        Panel(
            "Models' passes",
            "s",
            (
                ratio("drafter_model_seconds_total", "drafter_model_passes_total", "strategy", "{{strategy}}"),
                rate("drafter_model_swaps_total", "strategy", "swaps {{strategy}}"),
            ),
        ),
    ),
    "Router": (
        Panel("Choices per second", "reqps", (rate("router_arm_choices_total", "arm"),)),
        Panel(
            "Mean reward by arm",
            "none",
            (ratio("router_arm_reward_sum", "router_arm_reward_count", "arm", "{{arm}}"),),
            text="1 is the speed of plain decoding, 1.5 twice that.",
        ),
        Panel("Failed attempts per second", "reqps", (rate("router_failed_attempts_total", "verdict"),)),
        Panel("Second verifiers asked", "reqps", (rate("router_hedges_total", "result"),)),
        Panel(
            "Load",
            "none",
            (
                gauge("router_session_load", "sessions {{instance}}"),
                gauge("router_session_capacity", "capacity {{instance}}"),
                gauge("router_requests_waiting", "waiting {{instance}}"),
            ),
        ),
        Panel("HTTP responses per second", "reqps", (rate("http_responses_total", "route, status"),)),
    ),
    "Trainer": (
        Panel("Lessons per second", "short", (rate("trainer_lessons_total", "outcome"),)),
        Panel(
            "Replay buffer",
            "bytes",
            (
                gauge("trainer_replay_bytes", "{{instance}}"),
                gauge("trainer_replay_max_bytes", "most {{instance}}"),
            ),
        ),
        Panel(
            "Refits",
            "none",
            (
                Query(f"sum by (outcome) (increase(paceline:refits_ended_total{HERE}[1h]))", "{{outcome}} in an hour"),
                gauge("refit_running", "running {{instance}}"),
            ),
        ),
        Panel(
            "Acceptance on held-out lessons", "percentunit", (gauge("refit_acceptance", "{{weights}} {{instance}}"),)
        ),
        Panel("New tokens since the last refit", "short", (gauge("refit_new_tokens", "{{instance}}"),)),
        Panel("Lessons lost per second", "short", (rate("lessons_dropped_total", "instance"),)),
    ),
    "Processes": (
        Panel("Memory", "bytes", (Query(f"process_resident_memory_bytes{HERE}", "{{job}} {{instance}}"),)),
        Panel(
            "Processors",
            "none",
            (Query(f"rate(process_cpu_seconds_total{HERE}[$__rate_interval])", "{{job}} {{instance}}"),),
        ),
        Panel("Versions", "none", (gauge("build_info", "{{service}} {{version}}"),), kind="table"),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": {"h": 1, "w": WIDTH, "x": 0, "y": y},
                "panels": [],
            }
        )
        y, x = y + 1, 0
        for panel in row:
            if x + panel.width > WIDTH:
                y, x = y + HEIGHT, 0
            panels.append(_panel(panel, len(panels) + 1, x, y))
            x += panel.width
        y += HEIGHT
    return {
        "title": "Paceline",
        "uid": "paceline",
        "tags": ["paceline", "llm"],
        "timezone": "browser",
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": panels,
    }


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + index),
            "datasource": SOURCE,
            "expr": query.expr,
            "legendFormat": query.legend,
            **({"format": "table", "instant": True} if panel.kind == "table" else {}),
        }
        for index, query in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "gridPos": {"h": HEIGHT, "w": panel.width, "x": x, "y": y},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if panel.kind == "timeseries" else {},
        "targets": targets,
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}},
        {
            "name": "instance",
            "label": "process",
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": "label_values(paceline:build_info, instance)", "refId": "instance"},
            "definition": "label_values(paceline:build_info, instance)",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]


def as_text() -> str:
    """The file's content."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(as_text())
