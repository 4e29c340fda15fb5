"""Lessons are cut so that every figure belongs to its token, and never hold serving up."""

from __future__ import annotations

from typing import Any

from paceline.v1 import trainer_pb2
from paceline.verifier import lessons as module
from paceline.verifier.lessons import LESSON_TOKENS, MAX_CONTEXT, Lessons
from paceline.verifier.model.batch import SessionResult, TopRows
from paceline.verifier.request import Request
from paceline.verifier.sampling import Sampling
from paceline.verifier.session import Session
from paceline.verifier.text import TextStream
from paceline.verifier.trie import Candidate, Node, Source
from paceline.wire.settings import ClientSettings

PROMPT = tuple(range(5, 15))


class NoText:
    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return ""


def make_lessons(*distrusted: str) -> Lessons:
    return Lessons("tiny", "hash", 2, ClientSettings(), lambda: "127.0.0.1:1", distrusted.__contains__, "weights")


def make_session(max_tokens: int = 10_000, **fields: Any) -> Session:
    request = Request("r", fields.pop("prompt", PROMPT), Sampling(), max_tokens=max_tokens, **fields)
    return Session(1, request, TextStream(NoText(), PROMPT), frozenset(), 64)


def step(lessons: Lessons | None, session: Session, tokens: tuple[int, ...], accepted: tuple[int, ...] = ()) -> None:
    """A step that commits these tokens; the rows' best tokens are named after row and rank."""
    count = max((1, *(node + 2 for node in accepted)))
    ids = [[100 * row, 100 * row + 1, 100 * row + 2] for row in range(count)]
    result = SessionResult(tokens, accepted, TopRows(ids, [[-0.1, -2.0, -3.0]] * (len(accepted) + 1)))
    drafted = [Candidate(Node(0, None, proposals={Source("d1", "s"): -0.1}), -1, 0.5) for _ in range(count - 1)]
    taken = session.commit(result, drafted)
    if lessons is not None:
        lessons.observe(session, result, taken, drafted)


def submitted(lessons: Lessons) -> list[trainer_pb2.Lesson]:
    waiting = lessons._waiting
    return [waiting.get_nowait() for _ in range(waiting.qsize())]


async def test_each_token_has_the_row_it_was_picked_from():
    lessons, session = make_lessons(), make_session(max_tokens=4)
    step(lessons, session, (20,))
    step(lessons, session, (21, 22, 23), accepted=(0, 3))
    (lesson,) = submitted(lessons)
    assert (lesson.model, lesson.tokenizer_hash, lesson.weights_hash) == ("tiny", "hash", "weights")
    assert list(lesson.context) == list(PROMPT)
    assert list(lesson.tokens) == [20, 21, 22, 23]
    assert list(lesson.accepted) == [False, True, True, False]
    assert list(lesson.top_k_ids) == [0, 1, 0, 1, 100, 101, 400, 401]
    assert len(lesson.top_k_log_probs) == 8
    assert list(lesson.drafter_ids) == ["d1"]


async def test_a_long_answer_is_cut_and_its_context_bounded():
    lessons, session = make_lessons(), make_session(max_tokens=2 * LESSON_TOKENS, prompt=tuple([7] * 2 * MAX_CONTEXT))
    for token in range(2 * LESSON_TOKENS):
        step(lessons, session, (token,))
    first, second = submitted(lessons)
    assert list(first.tokens) == list(range(LESSON_TOKENS))
    assert list(second.tokens) == list(range(LESSON_TOKENS, 2 * LESSON_TOKENS))
    assert list(first.context) == [7] * MAX_CONTEXT
    assert list(second.context)[-LESSON_TOKENS:] == list(first.tokens)
    assert len(second.context) == MAX_CONTEXT


async def test_steps_that_were_not_observed_cut_a_lesson_instead_of_shifting_it():
    lessons, session = make_lessons(), make_session(max_tokens=6)
    step(lessons, session, (20, 21), accepted=(0,))
    step(None, session, (22, 23), accepted=(0,))  # there was no trainer then
    step(lessons, session, (24,))
    step(lessons, session, (25,))
    before, after = submitted(lessons)
    assert (list(before.tokens), list(before.accepted)) == ([20, 21], [True, False])
    assert (list(after.tokens), list(after.accepted)) == ([24, 25], [False, False])
    assert list(after.context) == [*PROMPT, 20, 21, 22, 23]


async def test_of_who_opted_out_or_went_away_nothing_is_kept():
    lessons = make_lessons()
    step(lessons, make_session(max_tokens=1, no_store=True), (20,))
    gone = make_session(max_tokens=2)
    step(lessons, gone, (20,))
    lessons.forget(gone)
    assert submitted(lessons) == []
    assert lessons._stretches == {}


async def test_when_the_trainer_is_slow_the_newest_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    lessons = make_lessons()
    for _ in range(5):
        step(lessons, make_session(max_tokens=1), (20,))
    assert lessons.num_dropped == 2
    assert len(submitted(lessons)) == 3


async def test_nothing_is_learned_from_stretches_that_a_drafter_in_quarantine_had_a_part_in():
    lessons, session = make_lessons("d1"), make_session(max_tokens=4)
    step(lessons, session, (20,))
    step(lessons, session, (21, 22, 23), accepted=(0, 3))
    assert submitted(lessons) == []
    assert lessons.num_distrusted == 1
    without = make_session(max_tokens=1)
    step(lessons, without, (20,))
    assert len(submitted(lessons)) == 1


async def test_what_a_grammar_forced_is_no_lesson():
    lessons = make_lessons()
    step(lessons, make_session(max_tokens=2, json_schema="{}"), (20, 21), accepted=(0,))
    assert submitted(lessons) == []
