"""What a drafter owes, and whether waiting for it by what is known of it pays."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import pytest

from paceline.verifier.answers import FIRST_TRIAL, HOPED_GAIN, MEASURED_EVERY, REMEMBERED_STATES, TRIAL_EVERY, Answers
from paceline.verifier.waiting import MAX_WAIT_S, Promise, Waiting, worthwhile_wait

SESSION = 7
STEP_S = 0.03


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Tree:
    """A chain that comes so long after each commit."""

    after_s: float
    depth: int
    final: bool = True


class Generation:
    """Of one session whose drafter's tokens are right with a probability, one like the other.

    Args:
        right: that probability.
        trees: how each commit is answered.
        num_trees: that are waited for; None goes by what is known of the drafter.
        slowed: drafting takes so many times as long while a step runs.
        rushed: steps that are not waited for at the beginning, whatever is known.
    """

    def __init__(
        self, right: float, trees: Sequence[Tree], num_trees: int | None = None, slowed: float = 1.0, rushed: int = 0
    ) -> None:
        self.clock = Clock()
        self.tokens = 0
        self._rng = random.Random(5)
        self._right = right
        self._trees = trees
        self._slowed = slowed
        self._rushed = rushed
        self._num_trees = len(trees) - num_trees if num_trees is not None else None
        self._worth = [sum(right**n for n in range(1, depth + 1)) for depth in range(64)]
        self._answers = Answers(self.clock)
        self._length = 0
        self._coming: list[tuple[float, Tree]] = []
        self._depth = 0  # of the candidates that are there

    def step(self) -> None:
        self._length += 1
        self._answers.told(SESSION, self._length)
        vary = self._rng.uniform(0.85, 1.15)
        self._coming = [(self.clock.now + tree.after_s * vary, tree) for tree in self._trees]
        while (wait_s := self._wait_s()) > 0.0:
            if not self._arrive(self.clock.now + wait_s):
                self.clock.now += wait_s
                self._answers.overdue(SESSION, self._length)
                break
        self._answers.passed_over(SESSION, self._length)
        now = self.clock.now
        self._coming = [(now + self._slowed * (at_s - now), tree) for at_s, tree in self._coming]
        ended_s, verified = now + STEP_S, self._depth
        accepted = next((n for n in range(verified) if self._rng.random() >= self._right), verified)
        while self._arrive(ended_s):
            pass
        self.clock.now = ended_s
        self.tokens += accepted + 1
        # What came meanwhile serves the next step if it goes on as the text does.
        goes_on = accepted == verified < self._depth and self._rng.random() < self._right
        self._depth = self._depth - accepted - 1 if goes_on else 0

    def _wait_s(self) -> float:
        if self._length <= self._rushed:
            return 0.0
        if self._num_trees is not None:
            return MAX_WAIT_S if len(self._coming) > self._num_trees else 0.0
        pending = self._answers.pending(SESSION, self._length)
        return worthwhile_wait([Waiting(1.0 + self._worth[self._depth], pending)], STEP_S)

    def _arrive(self, before_s: float) -> bool:
        """The next tree comes, if it does before that time."""
        if not self._coming or self._coming[0][0] > before_s:
            return False
        at_s, tree = self._coming.pop(0)
        self.clock.now = max(self.clock.now, at_s)
        before, self._depth = self._depth, max(self._depth, tree.depth)
        stage = self._answers.came(SESSION, self._length, tree.final)
        if stage is not None and stage.measured:
            stage.observe(Promise(1.0 + self._worth[before], STEP_S), Promise(1.0 + self._worth[self._depth], STEP_S))
        return True


def tokens_per_second(
    right: float, trees: Sequence[Tree], num_trees: int | None = None, slowed: float = 1.0, rushed: int = 0
) -> float:
    generation = Generation(right, trees, num_trees, slowed, rushed)
    started_s = generation.clock.now
    for _ in range(1500):
        generation.step()
    return generation.tokens / (generation.clock.now - started_s)


ANSWERS = {
    "fast": (0.6, [Tree(0.002, 4)]),
    "slow": (0.75, [Tree(0.015, 6)]),
    "a good rest": (0.8, [Tree(0.002, 2, False), Tree(0.012, 8)]),
    "a useless rest": (0.6, [Tree(0.002, 4, False), Tree(0.02, 5)]),
    "slower than a step": (0.85, [Tree(0.04, 8)]),
    "much too slow": (0.4, [Tree(0.06, 8)]),
    "silent": (0.5, [Tree(9.0, 1)]),
    "a slow rest": (0.85, [Tree(0.002, 1, False), Tree(0.008, 4, False), Tree(0.025, 10)]),
    "ahead": (0.85, [Tree(0.006, 5), Tree(0.02, 12)]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_waiting_by_what_is_measured_is_as_good_as_the_best_that_is_fixed(name):
    right, trees = ANSWERS[name]
    fixed = [tokens_per_second(right, trees, num_trees) for num_trees in range(len(trees) + 1)]
    assert tokens_per_second(right, trees) > 0.96 * max(fixed)


@pytest.mark.parametrize("slowed", [2.0, 4.0, 8.0])
def test_who_is_slow_because_nobody_waits_is_found_out_to_be_quick(slowed):
    """A drafter on the model's own processors: its answers come within the step, late, until one is waited for."""
    trees = [Tree(0.001, 1, False), Tree(0.007, 6)]
    best = tokens_per_second(0.8, trees, num_trees=2)
    assert best > 1.2 * tokens_per_second(0.8, trees, num_trees=1, slowed=slowed)
    assert tokens_per_second(0.8, trees, slowed=slowed, rushed=40) > 0.95 * best


def test_a_good_rest_that_never_comes_in_time_is_found_out_and_waited_for():
    trees = [Tree(0.002, 1, False), Tree(0.04, 10)]
    assert tokens_per_second(0.85, trees) > 0.9 * tokens_per_second(0.85, trees, num_trees=2)
    assert tokens_per_second(0.85, trees) > 1.2 * tokens_per_second(0.85, trees, num_trees=1)


def test_a_rest_that_is_much_too_slow_does_not_keep_a_step_from_waiting_for_what_is_quick():
    trees = [Tree(0.002, 3, False), Tree(0.2, 30)]
    quick = tokens_per_second(0.85, trees[:1], num_trees=1)
    assert tokens_per_second(0.85, trees) == pytest.approx(quick, rel=0.1)


def test_who_never_sends_a_final_tree_is_waited_for_until_its_first_and_no_longer():
    quick = tokens_per_second(0.8, [Tree(0.002, 5)])
    assert tokens_per_second(0.8, [Tree(0.002, 5, False)]) == pytest.approx(quick, rel=0.1)


def test_a_gain_is_looked_at_in_one_of_several_answers_beginning_with_the_first():
    clock = Clock()
    answers = Answers(clock)
    looked_at = []
    for length in range(1, 2 * MEASURED_EVERY + 1):
        answers.told(SESSION, length)
        stage = answers.came(SESSION, length, True)
        assert stage is answers.first
        looked_at.append(stage.measured)
    assert looked_at == [True, *[False] * (MEASURED_EVERY - 1)] * 2


def test_who_is_passed_over_is_tried_ever_more_seldom_and_soon_again_once_it_was_in_time():
    clock = Clock()
    answers = Answers(clock)
    lengths = count()

    def passed_over_until_hoped_for() -> int:
        for number in range(2 * TRIAL_EVERY):
            length = next(lengths)
            answers.told(SESSION, length)
            if answers.pending(SESSION, length)[0].hoped == HOPED_GAIN:
                answers.overdue(SESSION, length)  # not long enough to have waited in vain
                clock.now += 3.0 * answers.first.latency.mean_s
                answers.overdue(SESSION, length)
                return number
            answers.passed_over(SESSION, length)
        raise AssertionError("never tried")

    waits = [passed_over_until_hoped_for() for _ in range(9)]
    assert waits == [min(FIRST_TRIAL << trials, TRIAL_EVERY) for trials in range(9)]
    length = next(lengths)
    answers.told(SESSION, length)
    answers.came(SESSION, length, True)
    assert passed_over_until_hoped_for() == FIRST_TRIAL


def test_an_answer_to_an_earlier_state_says_how_long_answers_take_and_leaves_the_present_state_due():
    clock = Clock()
    answers = Answers(clock)
    answers.told(SESSION, 10)
    clock.now += 0.004
    answers.told(SESSION, 11)
    before = answers.first.latency.mean_s
    assert answers.came(SESSION, 10, True) is answers.first
    assert answers.first.latency.mean_s > before
    assert len(answers.pending(SESSION, 11)) == 1
    assert answers.came(SESSION, 11, True) is answers.first
    assert answers.came(SESSION, 10, True) is None  # once more
    assert answers.pending(SESSION, 11) == []


def test_states_that_are_never_answered_are_forgotten():
    answers = Answers(Clock())
    for length in range(1000):
        answers.told(SESSION, length)
    assert len(answers._states[SESSION]) == REMEMBERED_STATES
    answers.forget(SESSION)
    assert not answers._states
    assert len(answers.pending(SESSION, 999)) == 1, "as of one that was not told"
