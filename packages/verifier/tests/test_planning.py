"""How many candidates a step gets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from paceline.verifier.planning import MAX_PREFILL_ROWS, MAX_STRETCH, MIN_PREFILL_ROWS, grant, prefill_rows
from paceline.verifier.trie import Candidate, Node


def candidates(values: list[float]) -> list[Candidate]:
    return [Candidate(Node(0, None), -1, value) for value in sorted(values, reverse=True)]


def line(start: float, slope: float):
    return lambda rows: start + slope * rows


values_lists = st.lists(st.floats(0.0, 1.0), max_size=10)
batches = st.dictionaries(st.integers(0, 5), values_lists.map(candidates), min_size=1, max_size=4)
costs = st.tuples(st.floats(0.001, 1.0), st.floats(0.0, 1.0)).map(lambda pair: line(*pair))


@given(batches, costs, st.integers(0, 20))
def test_grants_the_prefixes_of_the_best_rate_within_the_bound(batch, cost, max_nodes):
    granted = grant(batch, len(batch), cost, max_nodes)
    assert granted.keys() == batch.keys()
    assert sum(granted.values()) <= max_nodes
    assert all(0 <= granted[key] <= len(batch[key]) for key in batch)

    def rate(values: list[float]) -> float:
        return (len(batch) + sum(values)) / cost(len(batch) + len(values))

    chosen = [candidate.value for key in batch for candidate in batch[key][: granted[key]]]
    ranked = sorted((candidate.value for planned in batch.values() for candidate in planned), reverse=True)
    best = max(rate(ranked[:count]) for count in range(min(max_nodes, len(ranked)) + 1))
    assert abs(rate(chosen) - best) <= 1e-9 * best


def test_free_rows_are_all_taken_and_dear_ones_not_at_all():
    batch = {1: candidates([0.9, 0.5, 0.01]), 2: []}
    assert grant(batch, 2, line(1.0, 0.0), 64) == {1: 3, 2: 0}
    assert grant(batch, 2, line(0.0, 1.0), 64) == {1: 0, 2: 0}  # a row costs as much as the token it may save


def test_a_row_is_taken_where_it_saves_more_than_it_costs():
    # Two tokens a second without; a candidate of 0.3 for a tenth of a second more: 2.3 / 1.1 > 2.
    assert grant({1: candidates([0.3])}, 1, line(0.4, 0.1), 64) == {1: 1}
    assert grant({1: candidates([0.1])}, 1, line(0.4, 0.1), 64) == {1: 0}


def test_more_sessions_get_fewer_nodes_each():
    def cost(rows: int) -> float:  # weights are read once; from 16 rows on, arithmetic is what takes time
        return max(16.0, rows)

    values = [0.9**depth for depth in range(1, 20)]
    each = []
    for num_sessions in (1, 2, 4, 8, 16, 32):
        granted = grant({key: candidates(values) for key in range(num_sessions)}, num_sessions, cost, 1000)
        each.append(sum(granted.values()) / num_sessions)
    assert each == sorted(each, reverse=True)
    assert each[0] >= 15
    assert each[-1] == 0


def test_nodes_go_to_the_session_where_they_are_worth_more():
    batch = {1: candidates([0.9, 0.8, 0.7]), 2: candidates([0.85, 0.1, 0.1])}
    assert grant(batch, 2, line(1.0, 0.0), 4) == {1: 3, 2: 1}


def test_a_prompt_in_the_step_makes_rows_cheap_but_yields_no_tokens():
    assert grant({}, 100, line(1.0, 1.0), 64) == {}
    assert grant({1: candidates([0.3])}, 1, line(0.0, 1.0), 64) == {1: 0}
    assert grant({1: candidates([0.3])}, 101, line(0.0, 1.0), 64) == {1: 1}


@given(st.integers(0, 64), st.floats(0.001, 2.0), st.floats(0.001, 1.0), st.floats(0.0, 0.05))
def test_a_prompt_is_read_as_fast_as_those_who_decode_can_bear(decoding, usual_s, fixed_s, row_s):
    def seconds(rows: int) -> float:
        return fixed_s + row_s * rows

    rows = prefill_rows(decoding, usual_s, seconds)
    assert MIN_PREFILL_ROWS <= rows <= MAX_PREFILL_ROWS
    if decoding == 0:
        assert rows == MAX_PREFILL_ROWS
    elif rows > MIN_PREFILL_ROWS:
        assert seconds(decoding + rows) <= MAX_STRETCH * usual_s
        assert rows == MAX_PREFILL_ROWS or seconds(decoding + rows + 1) > MAX_STRETCH * usual_s
