"""Leases: who is there, and for how long. Which verifier is taken, and which is left alone for now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.router.member import Member, Role
from paceline.router.placement import Suspects, least_loaded
from paceline.router.registry import Lease, Registry
from paceline.wire.errors import PacelineError, Reason

LEASE_S = 6.0


def verifier(member_id: str, load: int = 0, capacity: int = 4) -> Member:
    return Member(member_id, Role.VERIFIER, address="127.0.0.1:1", model="m", load=load, capacity=capacity)


steps = st.lists(
    st.tuples(
        st.sampled_from(["announce", "withdraw", "sweep"]),
        st.sampled_from([Role.VERIFIER, Role.DRAFTER]),
        st.sampled_from("abc"),
        st.integers(0, 5),
    ),
    max_size=30,
)


@given(steps)
def test_exactly_those_are_members_who_announced_within_the_lease_and_did_not_withdraw(
    script: list[tuple[str, Role, str, int]],
) -> None:
    registry = Registry(LEASE_S)
    announced: dict[tuple[Role, str], int] = {}
    now_s = 0
    for action, role, member_id, pause_s in script:
        now_s += pause_s
        if action == "announce":
            registry.announce(Member(member_id, role), now_s)
            announced[role, member_id] = now_s
        elif action == "withdraw":
            registry.withdraw(role, member_id)
            announced.pop((role, member_id), None)
        else:
            registry.sweep(now_s)
        for one in (Role.VERIFIER, Role.DRAFTER, Role.TRAINER):
            expected = sorted(key for (kind, key), at_s in announced.items() if kind is one and now_s < at_s + LEASE_S)
            assert [member.member_id for member in registry.members(one, now_s)] == expected


def test_a_lease_ends_at_its_end_and_not_before() -> None:
    registry = Registry(LEASE_S)
    registry.announce(verifier("a"), 10.0)
    assert registry.members(Role.VERIFIER, 15.999)
    assert not registry.members(Role.VERIFIER, 16.0)


def test_an_announcement_replaces_what_was_said_before() -> None:
    registry = Registry(LEASE_S)
    registry.announce(verifier("a", load=1), 0.0)
    registry.announce(verifier("a", load=3), 1.0)
    assert [member.load for member in registry.members(Role.VERIFIER, 2.0)] == [3]


def test_a_full_registry_refuses_newcomers_renews_members_and_reuses_the_room_of_the_dead() -> None:
    registry = Registry(LEASE_S, max_members=2)
    registry.announce(verifier("a"), 0.0)
    registry.announce(verifier("b"), 3.0)
    registry.announce(verifier("b"), 4.0)
    with pytest.raises(PacelineError) as refused:
        registry.announce(verifier("c"), 5.0)
    assert refused.value.reason is Reason.OVERLOADED
    assert refused.value.retry_after_s
    registry.announce(verifier("c"), 7.0)
    assert [member.member_id for member in registry.members(Role.VERIFIER, 7.0)] == ["b", "c"]


def test_the_least_loaded_is_taken_for_its_capacity_and_by_id_when_equal() -> None:
    assert least_loaded([verifier("a", 2, 4), verifier("b", 3, 8)], {}) == verifier("b", 3, 8)
    assert least_loaded([verifier("b"), verifier("a")], {}) == verifier("a")
    assert least_loaded([], {}) is None


def test_requests_sent_since_the_last_announcement_count_as_load() -> None:
    assert least_loaded([verifier("a"), verifier("b")], {"a": 1}) == verifier("b")


def test_a_verifier_without_capacity_is_compared_as_if_it_had_one_place() -> None:
    assert least_loaded([verifier("a", 1, 0), verifier("b", 1, 2)], {}) == verifier("b", 1, 2)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_no_verifier_is_less_occupied_than_the_one_taken(loads: list[tuple[int, int]]) -> None:
    verifiers = [verifier(str(index), load, capacity) for index, (load, capacity) in enumerate(loads)]
    taken = least_loaded(verifiers, {})
    assert taken is not None
    assert taken.load / taken.capacity == min(load / capacity for load, capacity in loads)


def test_a_suspect_is_trusted_again_only_after_an_announcement_that_follows_the_cool_down() -> None:
    suspects = Suspects(cool_down_s=1.0)
    suspects.failed("a", 10.0)
    assert not suspects.trusts(Lease(verifier("a"), 9.9))
    assert not suspects.trusts(Lease(verifier("a"), 10.5))
    assert suspects.trusts(Lease(verifier("a"), 11.0))
    assert suspects.trusts(Lease(verifier("b"), 0.0))


def test_sweeping_forgets_suspicion_only_where_it_is_over() -> None:
    suspects = Suspects(cool_down_s=1.0)
    suspects.failed("a", 10.0)
    suspects.failed("b", 10.0)
    suspects.sweep([Lease(verifier("a"), 9.0), Lease(verifier("b"), 11.0)])
    assert not suspects.trusts(Lease(verifier("a"), 9.0))
    assert suspects.trusts(Lease(verifier("b"), 0.0))
