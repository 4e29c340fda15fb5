"""How fast, from two announcements of a verifier."""

from __future__ import annotations

from dataclasses import replace

from paceline.cli.deployment import Candidates, Deployment, Verifier, Work
from paceline.cli.rates import Rates, Watcher, rates_between

WORK = Work(
    10.0, generated_tokens=100, session_steps=50, candidates=Candidates(40, 10), drafters={"s": Candidates(40, 10)}
)
LATER = Work(
    14.0, generated_tokens=300, session_steps=100, candidates=Candidates(80, 40), drafters={"s": Candidates(80, 40)}
)


def deployment(*works: Work | None) -> Deployment:
    verifiers = tuple(
        Verifier(f"v{number}", "", "", "m", 0, 1, False, (), "", "1.5", work) for number, work in enumerate(works)
    )
    return Deployment("r", "", "1.5", "ucb", 0, 0, verifiers)


def test_differences_by_the_verifiers_own_clock() -> None:
    assert rates_between(WORK, LATER) == Rates(4.0, 50.0, 4.0, 0.75)


def test_nothing_is_known_without_time_or_after_a_restart() -> None:
    assert rates_between(WORK, WORK) is None
    assert rates_between(LATER, WORK) is None
    assert rates_between(WORK, replace(LATER, generated_tokens=5)) is None


def test_an_idle_verifier_makes_no_tokens_and_no_shares() -> None:
    assert rates_between(WORK, replace(WORK, clock_s=11.0)) == Rates(1.0, 0.0, None, None)


def test_looks_may_come_faster_than_announcements() -> None:
    watcher = Watcher()
    for told in (WORK, WORK, LATER, LATER, LATER):
        seen = deployment(told)
        watcher.look(seen)
    assert watcher.rates(seen.verifiers[0]) == rates_between(WORK, LATER)
    assert watcher.candidates_of("s") == Candidates(40, 30)
    assert watcher.knows_all(seen)


def test_a_verifier_that_was_started_again_is_known_after_two_announcements() -> None:
    watcher = Watcher()
    for told in (WORK, LATER, Work(1.0)):
        watcher.look(deployment(told))
    assert not watcher.knows_all(deployment(WORK))
    watcher.look(deployment(Work(2.0, generated_tokens=30)))
    found = watcher.rates(deployment(WORK).verifiers[0])
    assert found is not None
    assert found.tokens_per_s == 30.0


def test_those_that_do_not_tell_are_not_waited_for() -> None:
    watcher = Watcher()
    watcher.look(deployment(None))
    assert watcher.knows_all(deployment(None))
    assert watcher.rates(deployment(None).verifiers[0]) is None
