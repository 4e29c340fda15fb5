"""The texts that bridges are measured on, and what is made of a simulation's answers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import ceil
from types import ModuleType

import pytest
from bridges import AT_ONCE, LEARNT_TOKENS, MAX_ANSWER, Texts, find_oracle, measure_bridges
from bridges import collect_texts as collect
from questions import Question
from rounds import Messages, Reply

from paceline.wire.errors import PacelineError, Reason

EOS = 2
QUESTIONS = [
    *(Question(f"w{number}", "multi_turn", ("One?", "Two?"), "writing") for number in range(20)),
    Question("c", "multi_turn", ("Code?",), "coding"),
    Question("m", "math_reasoning", ("Sum?",), "math_reasoning"),
]


class Fake:
    """Says 10 tokens and the end; the token tells the turn."""

    def __init__(self) -> None:
        self.asked: list[tuple[Messages, int]] = []

    async def __call__(self, messages: Messages, max_new_tokens: int, memory: str) -> Reply:
        self.asked.append((messages, max_new_tokens))
        return Reply((*(len(messages) for _ in range(10)), EOS), "said", 1.0, 1)


async def test_texts_are_answers_by_kind_without_their_ends() -> None:
    ask = Fake()
    texts = await collect(ask, QUESTIONS, 25, frozenset({EOS}), "{}")
    assert texts.ids == {"prose": [1] * 10 + [3] * 10 + [1] * 5, "code": [1] * 10}
    prompts = [messages for messages, _most in ask.asked]
    assert (("user", "One?"), ("assistant", "said"), ("user", "Two?")) in prompts
    assert len(prompts) == 4  # no more than was needed, and no maths
    assert [most for _messages, most in ask.asked] == [25, 14, 5, 25]


async def test_questions_are_asked_several_at_once_and_stay_in_order() -> None:
    texts = await collect(Fake(), QUESTIONS, 20 * MAX_ANSWER, frozenset({EOS}), "{}")
    assert texts.ids["prose"] == ([1] * 10 + [3] * 10) * 20
    said: list[str] = []
    await collect(Fake(), QUESTIONS, 20 * MAX_ANSWER, frozenset({EOS}), "{}", said.append)
    assert len(said) == ceil(20 / AT_ONCE) + 1


async def test_an_answer_is_not_so_long_that_it_goes_in_circles() -> None:
    ask = Fake()
    await collect(ask, QUESTIONS, 10_000, frozenset({EOS}), "{}")
    assert {most for _messages, most in ask.asked} == {MAX_ANSWER}


def learns(name: str, ids: Sequence[int], target: str, draft: str) -> float:
    """A bridge that lets half through at first, and everything after it has seen enough."""
    assert (target, draft) == ("target", "draft")
    if name == "impossible":
        raise PacelineError(Reason.MALFORMED, "no byte in common")
    return sum(0.5 if at < LEARNT_TOKENS else 1.0 for at in range(len(ids))) / len(ids)


def test_what_a_bridge_has_learnt_shows_in_what_comes_later() -> None:
    texts = Texts({"prose": [1] * (LEARNT_TOKENS + 1000), "code": [1] * 10}, "target")
    figures, refusals = measure_bridges(texts, "draft", ["cache", "impossible"], learns)
    assert figures == {"cache": {"prose": round(3500 / 6000, 4), "code": 0.5, "after_5000": 1.0}}
    assert refusals == ["bridge impossible: no byte in common"]


def test_too_little_text_gives_no_figure_rather_than_a_wrong_one() -> None:
    figures, _ = measure_bridges(Texts({"prose": [1] * 50, "code": []}, "target"), "draft", ["cache"], learns)
    assert figures == {"cache": {"prose": 0.5}}


def test_an_oracle_is_found_if_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "oracle", None)
    with pytest.raises(ModuleNotFoundError):
        import oracle  # noqa: F401
    assert find_oracle() is None
    module = ModuleType("oracle")
    monkeypatch.setattr(module, "acceptance", learns, raising=False)
    monkeypatch.setitem(sys.modules, "oracle", module)
    assert find_oracle() is learns
