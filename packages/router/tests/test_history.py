"""The history of arms and members: bounded, and what it calls an event."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from paceline.router.arms import PLAIN, Arm
from paceline.router.history import Estimate, Event, History, Key
from paceline.router.member import Member, Role
from paceline.router.trials import Outcome

SUFFIX = Member("suffix-1", Role.DRAFTER, name="suffix", revision="r1")
VERIFIER = Member("v", Role.VERIFIER, model="m")

KEYS = st.tuples(st.sampled_from(["m", "n"]), st.sampled_from([PLAIN, Arm(("a",)), Arm(("b",)), Arm(("a", "b"), 4)]))
POINTS = st.lists(st.dictionaries(KEYS, st.builds(Estimate, st.floats(0, 9), st.floats(0, 8))), max_size=12)


@given(POINTS, st.integers(1, 6), st.integers(1, 4))
def test_no_more_than_the_bounds_and_the_newest_of_it(
    points: list[dict[Key, Estimate]], max_points: int, max_arms: int
) -> None:
    history = History(max_points=max_points, max_arms=max_arms)
    for number, point in enumerate(points):
        history.estimated(float(number), point)
    kept = points[-max_points:]
    assert history.times_s == [float(number) for number in range(len(points))][-max_points:]
    found = history.series()
    assert len(found) <= max_arms
    assert [(one.model, one.arm) for one in found] == sorted((one.model, one.arm) for one in found)
    for one in found:
        assert len(one.estimates) == len(kept)
        for estimate, point in zip(one.estimates, kept, strict=True):
            assert estimate in (None, point.get((one.model, one.arm)))
    if kept and len(kept[-1]) <= max_arms:
        assert {(one.model, one.arm) for one in found} >= set(kept[-1]), "what can be chosen now is there"


def test_of_too_many_arms_those_with_most_segments_count() -> None:
    history = History(max_arms=2)
    history.estimated(
        0.0, {("m", Arm((name,))): Estimate(weight, 1.0) for name, weight in [("a", 1), ("b", 3), ("c", 2)]}
    )
    assert [one.arm for one in history.series()] == [Arm(("b",)), Arm(("c",))]


def test_who_came_left_and_swapped_is_an_event_and_who_stays_is_none() -> None:
    history = History()
    history.saw(1.0, [SUFFIX, VERIFIER], "ucb")
    history.saw(2.0, [SUFFIX, replace(VERIFIER, load=3)], "ucb")
    history.saw(3.0, [replace(SUFFIX, revision="r2"), VERIFIER], "ucb")
    history.saw(4.0, [VERIFIER], "ucb")
    assert history.events == [
        Event(1.0, "came", "drafter", "suffix-1", "suffix", after="r1"),
        Event(1.0, "came", "verifier", "v", "v"),
        Event(3.0, "revision", "drafter", "suffix-1", "suffix", "r1", "r2"),
        Event(4.0, "left", "drafter", "suffix-1", "suffix", before="r2"),
    ]


def test_a_trial_its_verdict_and_another_policy() -> None:
    history = History()
    trial = Member("suffix-1~trial", Role.DRAFTER, name="suffix", revision="r2", trial_of="suffix-1")
    history.saw(1.0, [trial], "ucb")
    history.decided(2.0, "suffix-1~trial", Outcome.BETTER)
    history.decided(3.0, "never-seen", Outcome.WORSE)
    history.saw(4.0, [trial], "thompson")
    assert history.events == [
        Event(1.0, "trial", "drafter", "suffix-1~trial", "suffix", after="suffix-1"),
        Event(2.0, "verdict", "drafter", "suffix-1~trial", "suffix", "suffix-1", "better"),
        Event(3.0, "verdict", "drafter", "never-seen", "never-seen", after="worse"),
        Event(4.0, "policy", before="ucb", after="thompson"),
    ]


def test_old_events_make_room() -> None:
    history = History(max_events=3)
    for number in range(5):
        history.saw(float(number), [replace(SUFFIX, revision=str(number))], "ucb")
    assert [event.after for event in history.events] == ["2", "3", "4"]
