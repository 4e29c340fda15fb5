"""Beginnings of prompts, where they were served, and how that is weighed against load."""

from __future__ import annotations

from itertools import pairwise, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.router.affinity import LEAST_BYTES, MAX_PARTS, STRETCH, Affinity, Trail, message
from paceline.router.member import Member, Role
from paceline.router.placement import best_placed, least_loaded, occupancy

SECRET = b"s" * 32
OWNER = ("tenant", "model", "text")
SLACK = 0.5

verifiers_ = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 9)), min_size=1, max_size=6).map(
    lambda sizes: [
        Member(f"v{index}", Role.VERIFIER, load=load, capacity=capacity) for index, (load, capacity) in enumerate(sizes)
    ]
)
in_flights = st.dictionaries(st.sampled_from([f"v{index}" for index in range(8)]), st.integers(0, 12))
credits_ = st.dictionaries(st.sampled_from([f"v{index}" for index in range(8)]), st.floats(0.0, SLACK))
prompts = st.builds(lambda unit, times: unit * times, st.binary(min_size=1, max_size=8), st.integers(0, 700))
patient = settings(deadline=None)


def affinity(slack: float = SLACK, **fields: int) -> Affinity:
    return Affinity(slack, SECRET, **fields)


def text_trail(known: Affinity, prompt: bytes, owner: tuple[str, ...] = OWNER) -> Trail:
    return known.trail(owner, [prompt])


def chat_trail(known: Affinity, *messages: tuple[str, str]) -> Trail:
    return known.trail(OWNER, [message(role, content) for role, content in messages], conversation=True)


# The choice


@patient
@given(verifiers_, in_flights, credits_)
def test_only_candidates_are_chosen_and_the_same_ones_for_the_same_reasons(
    verifiers: list[Member], in_flight: dict[str, int], credit: dict[str, float]
) -> None:
    chosen = best_placed(verifiers, in_flight, credit)
    assert chosen in verifiers
    assert best_placed(reversed(verifiers), in_flight, credit) == chosen
    assert best_placed([], in_flight, credit) is None


@patient
@given(verifiers_, in_flights)
def test_without_a_match_it_is_the_least_loaded(verifiers: list[Member], in_flight: dict[str, int]) -> None:
    assert best_placed(verifiers, in_flight, {}) == least_loaded(verifiers, in_flight)


@patient
@given(verifiers_, in_flights, credits_)
def test_a_match_is_never_busier_than_the_least_loaded_by_more_than_its_credit_and_never_full_while_others_are_not(
    verifiers: list[Member], in_flight: dict[str, int], credit: dict[str, float]
) -> None:
    chosen = best_placed(verifiers, in_flight, credit)
    least = least_loaded(verifiers, in_flight)
    assert chosen is not None
    assert least is not None
    busy, idle = occupancy(chosen, in_flight), occupancy(least, in_flight)
    assert busy <= idle + credit.get(chosen.member_id, 0.0) + 1e-9
    if busy >= 1.0:
        assert chosen == least


@patient
@given(verifiers_, in_flights, credits_)
def test_more_credit_never_costs_a_verifier_the_request(
    verifiers: list[Member], in_flight: dict[str, int], credit: dict[str, float]
) -> None:
    chosen = best_placed(verifiers, in_flight, credit)
    assert chosen is not None
    more = {**credit, chosen.member_id: credit.get(chosen.member_id, 0.0) + 0.25}
    assert best_placed(verifiers, in_flight, more) == chosen


# What is remembered


@patient
@given(prompts, prompts, prompts)
def test_credit_is_the_slack_times_the_share_that_was_seen_as_far_as_beginnings_reach(
    shared: bytes, first: bytes, second: bytes
) -> None:
    known = affinity()
    known.served(text_trail(known, shared + first), "v")
    trail = text_trail(known, shared + second)
    credit = known.credit(trail)
    length = len(shared + second)
    pairs = zip(shared + first, shared + second, strict=False)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if common >= LEAST_BYTES:
        assert SLACK * (common - max(LEAST_BYTES, common // STRETCH)) / length < credit["v"] <= SLACK * common / length
    else:
        assert credit == {}


@patient
@given(prompts)
def test_a_prompt_that_was_seen_whole_has_the_whole_slack(prompt: bytes) -> None:
    known = affinity()
    known.served(text_trail(known, prompt), "v")
    assert known.credit(text_trail(known, prompt)) == ({"v": SLACK} if len(prompt) >= LEAST_BYTES else {})


def test_who_served_last_is_remembered_and_who_saw_less_has_less() -> None:
    known = affinity()
    known.served(text_trail(known, b"x" * 2048), "a")
    known.served(text_trail(known, b"x" * 1024), "b")
    credit = known.credit(text_trail(known, b"x" * 2048))
    assert credit == {"a": SLACK, "b": SLACK / 2}
    known.served(text_trail(known, b"x" * 2048), "b")
    assert known.credit(text_trail(known, b"x" * 2048)) == {"b": SLACK}


@pytest.mark.parametrize(
    "other", [("other", "model", "text"), ("tenant", "other", "text"), ("tenantmodel", "", "text")]
)
def test_nothing_is_known_of_what_others_asked(other: tuple[str, ...]) -> None:
    known = affinity()
    known.served(text_trail(known, b"x" * 4096), "v")
    assert known.credit(text_trail(known, b"x" * 4096, other)) == {}


def test_keys_say_nothing_without_the_secret() -> None:
    trails = [Affinity(SLACK, secret).trail(OWNER, [b"x" * 4096]) for secret in (SECRET, b"t" * 32)]
    first, second = ({beginning.key for beginning in trail.beginnings} for trail in trails)
    assert not first & second


@patient
@given(st.lists(prompts.filter(lambda prompt: len(prompt) >= LEAST_BYTES), max_size=40), st.integers(1, 20))
def test_memory_is_bounded_and_what_was_seen_last_stays(seen: list[bytes], limit: int) -> None:
    known = affinity(max_beginnings=limit)
    for index, prompt in enumerate(seen):
        known.served(text_trail(known, prompt), f"v{index}")
        assert len(known) <= limit
        assert known.credit(text_trail(known, prompt)) == {f"v{index}": SLACK}


@pytest.mark.parametrize(("num_bytes", "most"), [(4096, 20), (4 * 1024 * 1024, 100)])
def test_a_prompt_has_few_beginnings_however_long_it_is(num_bytes: int, most: int) -> None:
    ends = [beginning.num_bytes for beginning in text_trail(affinity(), bytes(num_bytes)).beginnings]
    assert ends[-1] == num_bytes
    assert len(ends) < most
    assert all(0 < after - before <= max(LEAST_BYTES, before // STRETCH) for before, after in pairwise(ends))


def test_without_slack_nothing_is_hashed_or_remembered() -> None:
    known = affinity(slack=0.0)
    trail = text_trail(known, b"x" * 4096)
    assert trail == Trail()
    known.served(trail, "v")
    known.finished(trail, "v")
    assert len(known) == 0


# Conversations

texts = st.builds(lambda unit, times: unit * times, st.text(max_size=4), st.integers(0, 90))


@patient
@given(st.lists(texts, min_size=1, max_size=2 * MAX_PARTS), st.lists(texts, max_size=6), texts)
def test_the_next_turn_finds_the_whole_conversation_before_it(before: list[str], answer: list[str], asks: str) -> None:
    known = affinity()
    turn = [("user", content) for content in before]
    trail = chat_trail(known, *turn)
    for text in answer:
        trail.add(text.encode())
    known.finished(trail, "v")
    longer = [*turn, ("assistant", "".join(answer))]
    size = sum(len(message(role, content)) for role, content in longer)
    after = chat_trail(known, *longer, ("user", asks))
    expected = SLACK * size / after.beginnings[-1].num_bytes if size >= LEAST_BYTES else None
    assert known.credit(after).get("v") == expected


def test_messages_don_t_run_into_one_another() -> None:
    known = affinity()
    long = "x" * 1000
    known.served(chat_trail(known, ("user", long), ("user", "ab"), ("user", "c")), "v")
    whole = chat_trail(known, ("user", long), ("user", "a"), ("user", "bc"))
    assert known.credit(whole)["v"] < SLACK
    assert known.credit(chat_trail(known, ("system", long), ("user", "ab"))) == {}
