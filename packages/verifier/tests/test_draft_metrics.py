"""What drafters are measured by: counts that add up, and a bounded number of time series."""

from __future__ import annotations

import threading

from prometheus_client import CollectorRegistry, generate_latest

from paceline.verifier.draft_metrics import (
    MAX_DRAFTERS,
    MAX_POSITIONS,
    MAX_PROPOSERS,
    OTHERS,
    DepthCounts,
    DraftMetrics,
)

TESTED = "paceline:spec_decode_num_draft_tokens_per_pos_total"
RIGHT = "paceline:spec_decode_num_accepted_tokens_per_pos_total"
TESTED_OF = "paceline:drafter_draft_tokens_per_pos_total"
RIGHT_OF = "paceline:drafter_accepted_tokens_per_pos_total"
A, B = ("home", "suffix"), ("away", "recycling")


def shown(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    values = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in values if not name.split("{")[0].endswith("_created")}


def test_a_candidate_counts_once_and_for_each_that_proposed_it() -> None:
    metrics = DraftMetrics(registry := CollectorRegistry())
    metrics.depths.count(0, True, [A, B])
    metrics.depths.count(0, False, [B])
    metrics.depths.count(1, True, [A])
    values = shown(registry)
    assert (values[f'{TESTED}{{position="0"}}'], values[f'{RIGHT}{{position="0"}}']) == (2, 1)
    assert (values[f'{TESTED}{{position="1"}}'], values[f'{RIGHT}{{position="1"}}']) == (1, 1)
    assert values[f'{TESTED_OF}{{drafter="home",position="0",strategy="suffix"}}'] == 1
    assert values[f'{TESTED_OF}{{drafter="away",position="0",strategy="recycling"}}'] == 2
    assert values[f'{RIGHT_OF}{{drafter="away",position="0",strategy="recycling"}}'] == 1
    assert values[f'{RIGHT_OF}{{drafter="home",position="1",strategy="suffix"}}'] == 1


def test_what_is_deeper_than_is_told_apart_counts_with_the_last() -> None:
    metrics = DraftMetrics(registry := CollectorRegistry())
    for position in range(3 * MAX_POSITIONS):
        metrics.depths.count(position, True, [A])
    values = shown(registry)
    assert sum(name.startswith(TESTED) for name in values) == MAX_POSITIONS
    assert values[f'{TESTED}{{position="{MAX_POSITIONS - 1}"}}'] == 2 * MAX_POSITIONS + 1


def test_drafters_that_invent_names_do_not_invent_time_series() -> None:
    metrics = DraftMetrics(registry := CollectorRegistry())
    for number in range(3 * MAX_PROPOSERS):
        metrics.depths.count(0, False, [(f"drafter {number}", "s")])
    for number in range(3 * MAX_DRAFTERS):
        metrics.stream(f"drafter {number}").received(7)
    values = shown(registry)
    assert sum(name.startswith(TESTED_OF) for name in values) == MAX_PROPOSERS + 1
    assert values[f'{TESTED_OF}{{drafter="{OTHERS}",position="0",strategy="{OTHERS}"}}'] == 2 * MAX_PROPOSERS
    traffic = {name: value for name, value in values.items() if "stream_bytes" in name and "received" in name}
    assert len(traffic) == MAX_DRAFTERS + 1
    assert traffic[f'paceline:draft_stream_bytes_total{{direction="received",drafter="{OTHERS}"}}'] == 14 * MAX_DRAFTERS


def test_streams_of_drafters_with_one_name_count_together() -> None:
    metrics = DraftMetrics(registry := CollectorRegistry())
    for stream in (metrics.stream("suffix"), metrics.stream("suffix")):
        stream.sent(100)
        stream.received(30)
        stream.drafted(2_000)
    values = shown(registry)
    assert values['paceline:draft_stream_bytes_total{direction="sent",drafter="suffix"}'] == 200
    assert values['paceline:draft_stream_bytes_total{direction="received",drafter="suffix"}'] == 60
    assert values['paceline:draft_seconds_count{drafter="suffix"}'] == 2
    assert values['paceline:draft_seconds_sum{drafter="suffix"}'] == 0.004


def test_somebody_may_look_while_candidates_are_counted() -> None:
    counts = DepthCounts()
    done = threading.Event()

    def count() -> None:
        for number in range(20_000):
            counts.count(number % MAX_POSITIONS, number % 3 == 0, [(f"drafter {number % 200}", "s")])
        done.set()

    counting = threading.Thread(target=count)
    counting.start()
    while not done.is_set():
        list(counts.collect())
    counting.join()
    tested, right, *_ = counts.collect()
    assert sum(sample.value for sample in tested.samples) == 20_000
    assert sum(sample.value for sample in right.samples) == sum(number % 3 == 0 for number in range(20_000))
