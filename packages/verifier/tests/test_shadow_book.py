"""Text that waits to be scored on, and scores that wait to be told."""

from __future__ import annotations

from typing import Any

import pytest

from paceline.verifier.model.batch import SessionResult, TopRows
from paceline.verifier.request import Request, Speculation
from paceline.verifier.sampling import Sampling
from paceline.verifier.session import Finish, Session
from paceline.verifier.shadow_book import (
    MAX_CONTEXT,
    MAX_SCORES,
    MAX_STRETCHES,
    MAX_TENANTS,
    MAX_TOKENS,
    MIN_TOKENS,
    ShadowBook,
    ShadowScore,
)
from paceline.verifier.shadow_replay import Figures
from paceline.verifier.text import TextStream
from paceline.verifier.trie import Candidate, Node
from paceline.wire.tree import ROOT

PROMPT = (5, 6, 7)


class NoText:
    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return ""


def make_session(session_id: int = 1, prompt: tuple[int, ...] = PROMPT, shadow: int = 2, **fields: Any) -> Session:
    wish = Speculation((), shadow=shadow)
    asked = {"segment_tokens": 64, **fields}
    request = Request("r", prompt, Sampling(), max_tokens=100_000, speculation=wish, **asked)
    return Session(session_id, request, TextStream(NoText(), prompt), frozenset(), 256)


def step(book: ShadowBook, session: Session, *tokens: int, top: bool = True) -> None:
    """A step that accepts all but the last of these tokens; its tree has a wrong candidate before each right one."""
    accepted = tuple(range(1, 2 * len(tokens) - 1, 2))
    candidates = []
    for index, token in enumerate(tokens[:-1]):
        above = 2 * index - 1 if index else ROOT
        candidates += [Candidate(Node(token + 1, None), above, 0.5), Candidate(Node(token, None), above, 0.5)]
    ids = [[row, row + 100] for row in range(len(candidates) + 1)]
    result = SessionResult(tokens, accepted, TopRows(ids) if top else None)
    book.observe(session, result, session.commit(result, candidates))


def steps(book: ShadowBook, session: Session, count: int) -> None:
    for token in range(count):
        step(book, session, token)


def make_book() -> ShadowBook:
    return ShadowBook(lambda session: 2)


def test_a_segments_text_and_the_rows_of_its_path_are_kept() -> None:
    book, session = make_book(), make_session()
    for _ in range(6):
        step(book, session, 10, 11, 12)
    step(book, session, 13, top=False)
    book.ended(session, 3, {"engaged"})
    stretch = book.next()
    assert stretch is not None
    assert (stretch.start, stretch.length) == (len(PROMPT), 19)
    assert stretch.text == [10, 11, 12] * 6 + [13]
    assert stretch.top_ids == [[0, 100], [2, 102], [4, 104]] * 6 + [()]
    assert (stretch.num_sessions, stretch.num_wanted, stretch.scored) == (3, 2, {"engaged"})
    step(book, session, 14)
    assert stretch.text[-1] == 14  # what came later is known as well
    assert book.next() is None


def test_each_segment_is_a_stretch_of_its_own_and_a_long_one_is_cut() -> None:
    book, session = make_book(), make_session()
    for length in (20, MAX_TOKENS + 50, 20):
        steps(book, session, length)
        book.ended(session, 1, set())
    found = [stretch for _ in range(3) if (stretch := book.next()) is not None]
    assert [(one.start - len(PROMPT), one.length, len(one.before)) for one in found] == [
        (MAX_TOKENS + 70, 20, 0),  # what lies before it was left out
        (20, MAX_TOKENS, 20),
        (0, 20, 0),
    ]


def test_rows_of_the_answer_so_far_come_before_a_segment_up_to_a_bound() -> None:
    book, session = make_book(), make_session()
    for number in range(8):
        for _ in range(20):
            step(book, session, 10 + number, 11)
        book.ended(session, 1, set())
    found = [stretch for _ in range(MAX_STRETCHES) if (stretch := book.next()) is not None]
    assert [len(stretch.before) for stretch in found] == [MAX_TOKENS, 240, 200, 160]
    assert found[1].before[-40:] == found[2].top_ids
    book.forget(session)
    steps(book, session, 20)
    book.ended(session, 1, set())
    (last,) = [stretch for _ in range(2) if (stretch := book.next()) is not None]
    assert last.before == []


@pytest.mark.parametrize("fields", [{"shadow": 0}, {"segment_tokens": 0}, {"json_schema": "{}"}])
def test_nothing_is_kept_unless_it_is_wanted(fields: dict[str, Any]) -> None:
    book, session = make_book(), make_session(**fields)
    assert book.top_k(session) == 0
    steps(book, session, 64)
    book.ended(session, 1, set())
    assert book.next() is None


def test_text_that_is_too_short_or_too_far_on_is_not_kept() -> None:
    book = make_book()
    short, long = make_session(1), make_session(2, prompt=(1,) * (MAX_CONTEXT + 1))
    steps(book, short, MIN_TOKENS - 1)
    steps(book, long, 64)
    for session in (short, long):
        book.ended(session, 1, set())
    assert book.next() is None


def test_whoever_begins_to_ask_in_the_middle_is_written_down_from_there() -> None:
    book, session = make_book(), make_session()
    steps(book, session, 10)
    session.speculation = Speculation(())
    steps(book, session, 10)
    session.speculation = Speculation((), shadow=1)
    steps(book, session, 20)
    book.ended(session, 1, set())
    stretch = book.next()
    assert stretch is not None
    assert (stretch.start - len(PROMPT), stretch.length) == (20, 20)


def test_text_of_a_client_who_left_goes_and_that_of_a_complete_answer_stays() -> None:
    book = make_book()
    left, complete = make_session(1), make_session(2)
    for session in (left, complete):
        steps(book, session, 20)
        book.ended(session, 1, set())
        session.cancelled = True  # what ends a call says this of every session
    complete.finish = Finish.LENGTH
    stretch = book.next()
    assert stretch is not None
    assert stretch.session is complete
    assert book.next() is None


def test_the_newest_text_goes_first_and_the_oldest_is_dropped() -> None:
    book = make_book()
    woken: list[int] = []
    book.wake = lambda: woken.append(1)
    for session_id in range(MAX_STRETCHES + 2):
        session = make_session(session_id)
        steps(book, session, 20)
        book.ended(session, 1, set())
    newest = book.next()
    assert newest is not None
    book.put_back(newest)
    order = [stretch.session.session_id for _ in range(MAX_STRETCHES) if (stretch := book.next()) is not None]
    assert order == [4, 3, 2, 5]
    assert len(woken) == MAX_STRETCHES + 2


def test_scores_are_kept_by_tenant_within_bounds() -> None:
    book = make_book()
    for number in range(MAX_SCORES + 5):
        book.keep("a", ShadowScore(f"d{number}", "d", Figures()))
    book.keep("b", ShadowScore("other", "d", Figures()))
    assert [score.drafter_id for score in book.take("a")] == [f"d{number}" for number in range(5, MAX_SCORES + 5)]
    assert book.take("a") == []
    for number in range(MAX_TENANTS):
        book.keep(f"t{number}", ShadowScore("d", "d", Figures()))
    assert book.take("b") == []
