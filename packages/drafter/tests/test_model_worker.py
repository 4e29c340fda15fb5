"""Several sessions on one model: who is served, in which order, within which bounds. The clock stands still unless
the model runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from fake_head import FakeHead, features_of, greedy
from fake_head import session_on as head_session_on
from fake_model import FakeModel, Plain, session_on

from paceline.drafter.calibration import Calibration
from paceline.drafter.model_worker import MAX_BATCH, ModelDraft, ModelWorker
from paceline.drafter.models.base import Logits, Rows
from paceline.drafter.pace import Pace
from paceline.drafter.strategies.base import Budget, Commit

BUDGET = Budget(max_nodes=16, max_depth=8)
PASS_S = 0.004


class TimedModel(FakeModel):
    """Each pass takes PASS_S of the test's time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.seconds_a_row = 0.0
        self.fails = False

    def score(self, batch: Sequence[Rows]) -> list[Logits]:
        self.now += PASS_S + self.seconds_a_row * sum(len(rows.tokens) for rows in batch)
        if self.fails:
            raise MemoryError("no room for another row")
        return super().score(batch)


class Office:
    """A worker, its model, and the drafts that came."""

    def __init__(self, max_rows: int = 10_000, ahead: bool = True) -> None:
        self.model = TimedModel()
        session = session_on(self.model, [1])
        self.worker = ModelWorker(
            self.model, session._growing.growth, Calibration(), max_rows, ahead, clock=lambda: self.model.now
        )
        self.drafts: list[ModelDraft] = []

    def open(self, number: int, tokens: Sequence[int], step_s: float = 0.0, round_trip_s: float = 0.0) -> None:
        pace = Pace()
        pace.step_s, pace.round_trip_s = step_s, round_trip_s
        self.worker.opened((0, number), session_on(self.model, tokens), BUDGET, pace)

    def commit(self, number: int, tokens: Sequence[int]) -> None:
        self.worker.committed((0, number), Commit(number, tuple(tokens), 0, 0))

    def work(self, most: int = 100) -> list[ModelDraft]:
        """Until there is nothing to do; returns what came of it."""
        found: list[ModelDraft] = []
        for _ in range(most):
            if not self.worker.has_work:
                break
            found += self.worker.work()
        self.drafts += found
        return found


def test_sessions_that_are_due_share_passes():
    office = Office()
    for number in range(5):
        office.open(number, [number, number + 1])
    drafts = office.work()
    assert sorted(draft.key for draft in drafts) == [(0, number) for number in range(5)]
    assert office.model.largest_batch == 5
    assert office.model.num_passes == 6, "as many as one session alone takes"
    for draft in drafts:
        number = draft.key[1]
        assert draft.candidates.tokens == office.model.greedy([number, number + 1], 6)


def test_more_sessions_than_a_batch_are_all_served():
    office = Office()
    for number in range(2 * MAX_BATCH + 3):
        office.open(number, [number, 1])
    drafts = office.work()
    assert {draft.key[1] for draft in drafts} == set(range(2 * MAX_BATCH + 3))
    assert office.model.largest_batch == MAX_BATCH


def test_nothing_is_done_twice_for_the_same_text():
    office = Office()
    office.open(1, [1, 2])
    assert len(office.work()) == 1
    assert not office.worker.has_work
    office.commit(1, [3])
    assert len(office.work()) == 1


def test_a_commit_in_the_middle_of_a_draft_is_answered_for_the_new_text():
    office = Office()
    office.open(1, [1, 2])
    office.work(most=3)
    assert not office.drafts
    office.commit(1, [7])
    (draft,) = office.work()
    assert draft.length == 3
    assert draft.candidates.tokens == office.model.greedy([1, 2, 7], 6)


def test_between_commits_it_thinks_ahead_as_long_as_there_is_time():
    office = Office()
    office.open(1, [1, 2], step_s=0.1)
    (draft,) = office.work()
    assert not draft.ahead, "a verifier next door asks in time: nothing is sent unasked"
    assert 0.1 - 3 * PASS_S < office.model.now <= 0.1, "a pass that would end after the commit is not begun"
    assert office.model.num_passes > 15


def test_without_thinking_ahead_it_rests():
    office = Office(ahead=False)
    office.open(1, [1, 2], step_s=0.1)
    office.work()
    assert office.model.num_passes == 6


def test_a_session_that_is_due_goes_before_thinking_ahead():
    office = Office()
    office.open(1, [1, 2], step_s=10.0)
    office.work(most=8)
    office.open(2, [3, 4], step_s=10.0)
    found = office.work(most=7)
    assert [draft.key[1] for draft in found if not draft.ahead] == [2]


def test_a_verifier_far_away_is_sent_what_was_thought_ahead():
    office = Office()
    office.open(1, [1, 2], step_s=0.03, round_trip_s=0.04)
    first, *later = office.work()
    assert not first.ahead
    assert later
    assert all(draft.ahead and draft.length == 2 for draft in later)
    sizes = [len(draft.candidates) for draft in (first, *later)]
    assert sizes == sorted(set(sizes)), "each says more than the one before"


def test_the_session_unused_for_longest_loses_its_rows_and_goes_on_the_same():
    office = Office(max_rows=40, ahead=False)
    office.open(1, list(range(20)))
    office.work()
    office.open(2, list(range(10, 30)))
    office.work()
    rows = office.model.num_rows
    office.commit(1, [5])
    (draft,) = office.work()
    assert office.model.num_rows - rows >= 21, "its context was read again"
    assert draft.candidates.tokens == office.model.greedy([*range(20), 5], 6)


def test_sessions_that_fill_the_cache_are_all_served_in_the_end():
    """Alone, and beside one another: whoever ran last keeps its rows, so each gets through."""
    office = Office(max_rows=22, ahead=False)
    for number in range(3):
        office.open(number, list(range(number, number + 20)))
    drafts = office.work(most=60)
    assert not office.worker.has_work
    assert {draft.key[1] for draft in drafts} == {0, 1, 2}
    for draft in drafts:
        text = list(range(draft.key[1], draft.key[1] + 20))
        assert draft.candidates.tokens == office.model.greedy(text, 6)


def test_a_model_that_fails_costs_its_sessions_their_drafts():
    office = Office()
    office.open(1, [1, 2])
    office.model.fails = True
    with pytest.raises(MemoryError):
        office.worker.work()
    (gone,) = office.worker.give_up()
    assert gone.gone
    assert gone.key == (0, 1)
    assert not len(gone.candidates)
    office.commit(1, [3])
    assert not office.worker.has_work
    office.model.fails = False
    office.open(2, [1, 2])
    assert len(office.work()) == 1


def test_confidences_follow_what_came_true():
    """A target that never says what the model says: claims fall."""
    office = Office(ahead=False)
    office.open(1, [1, 2])
    (first,) = office.work()
    for _ in range(300):
        (draft,) = office.work() or office.drafts[-1:]
        wrong = (draft.candidates.tokens[0] + 1) % 40
        office.commit(1, [wrong])
    (last,) = office.work()
    assert np.mean(last.candidates.confidence[:1]) < 0.5 * np.mean(first.candidates.confidence[:1])


@pytest.mark.parametrize(("round_trip_s", "ahead"), [(0.0, False), (0.08, True)])
def test_a_head_thinks_ahead_only_for_a_verifier_far_away(round_trip_s: float, ahead: bool):
    """Next door, the commit would bring better states and drop what was thought without them."""
    head, text, now = FakeHead(), [3, 5, 59, 10], 0.0
    session = head_session_on(head, text)
    worker = ModelWorker(head, session._growing.growth, Calibration(), 10_000, True, clock=lambda: now)
    pace = Pace()
    pace.step_s, pace.round_trip_s = 0.1, round_trip_s
    worker.opened((0, 1), session, BUDGET, pace)
    text += greedy(text, 1)
    worker.committed((0, 1), Commit(1, (text[-1],), len(text), 0, features=features_of(text, 0)))
    drafts: list[ModelDraft] = []
    while worker.has_work and len(drafts) < 4:
        drafts += worker.work()
    assert any(draft.ahead for draft in drafts) is ahead
    assert drafts[0].candidates.tokens == greedy(text, 6)


def test_reading_a_long_text_does_not_make_passes_seem_slow():
    """Else the trees of all sessions would be cut short for a while."""
    office = Office(ahead=False)
    office.open(1, [1, 2])
    office.work()
    usual = office.worker._pass_s
    assert usual == pytest.approx(PASS_S)
    office.model.seconds_a_row = 0.01
    office.open(2, [index % 40 for index in range(100)])
    office.work(most=1)
    assert office.model.now > 1.0
    assert office.worker._pass_s == usual


def test_a_session_without_text_says_at_once_that_it_has_nothing():
    office = Office()
    pace = Pace()
    session = session_on(office.model, [1])
    bridge = session._bridge
    assert isinstance(bridge, Plain)
    session._context.clear()
    office.worker.opened((0, 1), session, BUDGET, pace)
    (draft,) = office.work()
    assert not len(draft.candidates)
    assert not draft.gone
