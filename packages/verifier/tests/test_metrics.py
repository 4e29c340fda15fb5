"""What is shown to Prometheus: names that hold still, and a bounded number of time series."""

from __future__ import annotations

from prometheus_client import generate_latest

from paceline.verifier.metrics import MAX_STRATEGIES, OTHERS, Metrics


def shown(metrics: Metrics) -> dict[str, float]:
    lines = generate_latest(metrics.registry).decode().splitlines()
    values = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in values}


def test_a_step_counts_in_every_histogram_and_a_first_step_has_no_gap() -> None:
    metrics = Metrics()
    metrics.stepped(0.01, 5, None, 0.0)
    metrics.stepped(0.02, 7, 0.001, 0.002)
    values = shown(metrics)
    assert values["paceline:step_seconds_count"] == values["paceline:step_rows_count"] == 2
    assert values["paceline:step_rows_sum"] == 12
    assert (values["paceline:step_gap_seconds_count"], values["paceline:step_gap_seconds_sum"]) == (1, 0.001)
    assert values["paceline:draft_wait_seconds_sum"] == 0.002


def test_gauges_are_read_when_somebody_looks() -> None:
    metrics = Metrics()
    now = {"running": 1.0}
    metrics.show(lambda: now["running"], lambda: 2.0, lambda: 0.5, lambda: 0.25)
    assert shown(metrics)["paceline:num_requests_running"] == 1.0
    now["running"] = 3.0
    values = shown(metrics)
    assert values["paceline:num_requests_running"] == 3.0
    assert values["paceline:num_requests_waiting"] == 2.0
    assert (values["paceline:kv_cache_usage_perc"], values["paceline:kv_cache_remembered_perc"]) == (0.5, 0.25)


def test_a_drafter_that_invents_strategies_does_not_invent_time_series() -> None:
    metrics = Metrics()
    for number in range(3 * MAX_STRATEGIES):
        metrics.drafted(f"strategy {number}", 2, 1)
    metrics.drafted("strategy 0", 5, 5)
    values = {name: value for name, value in shown(metrics).items() if "num_draft_tokens_total" in name}
    assert len(values) == MAX_STRATEGIES + 1
    assert values['paceline:spec_decode_num_draft_tokens_total{strategy="strategy 0"}'] == 7
    assert values[f'paceline:spec_decode_num_draft_tokens_total{{strategy="{OTHERS}"}}'] == 4 * MAX_STRATEGIES
    assert sum(values.values()) == 6 * MAX_STRATEGIES + 5
