"""The texts that bridges are measured on, and what is made of a simulation's answers."""

from __future__ import annotations

from math import ceil

from bridges import AT_ONCE, LEARNT_TOKENS, MAX_ANSWER, Texts, measure_bridges
from bridges import collect_texts as collect
from questions import Question
from real_vocabularies import deepseek, real_vocabulary, smollm2
from rounds import Messages, Reply

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
    assert texts.answers == {"prose": [[1] * 10 + [3] * 10, [1] * 10], "code": [[1] * 10]}
    prompts = [messages for messages, _most in ask.asked]
    assert (("user", "One?"), ("assistant", "said"), ("user", "Two?")) in prompts
    assert len(prompts) == 4  # no more than was needed, and no maths
    assert [most for _messages, most in ask.asked] == [25, 14, 5, 25]


async def test_questions_are_asked_several_at_once_and_stay_in_order() -> None:
    texts = await collect(Fake(), QUESTIONS, 20 * MAX_ANSWER, frozenset({EOS}), "{}")
    assert texts.answers["prose"] == [[1] * 10 + [3] * 10] * 20
    said: list[str] = []
    await collect(Fake(), QUESTIONS, 20 * MAX_ANSWER, frozenset({EOS}), "{}", said.append)
    assert len(said) == ceil(20 / AT_ONCE) + 1


async def test_an_answer_is_not_so_long_that_it_goes_in_circles() -> None:
    ask = Fake()
    await collect(ask, QUESTIONS, 10_000, frozenset({EOS}), "{}")
    assert {most for _messages, most in ask.asked} == {MAX_ANSWER}


PROSE = "An old bridge led over the river, and nobody in the village knew who had built it.\n\nOnce a year it rained. "


def test_bridges_are_compared_on_the_same_text() -> None:
    target = real_vocabulary("smollm2")
    answer = target.encode(PROSE * 4)
    short = Texts({"prose": [answer] * 2, "code": []}, smollm2())
    figures, refusals = measure_bridges(short, deepseek(), ["identity", "string_exact", "intersection"])
    assert set(figures) == {"string_exact", "intersection"}
    assert set(figures["string_exact"]) == {"prose"}, "too little text gives no figure rather than a wrong one"
    assert figures["string_exact"]["prose"] > 0.9
    assert len(refusals) == 1
    assert refusals[0].startswith("bridge identity: ")


def test_what_a_bridge_has_learnt_shows_in_what_comes_later() -> None:
    target = real_vocabulary("smollm2")
    answer = target.encode(PROSE)
    texts = Texts({"prose": [answer] * (LEARNT_TOKENS // len(answer) + 3), "code": [answer]}, smollm2())
    figures, _ = measure_bridges(texts, deepseek(), ["intersection", "ngram_cache"])
    assert figures["ngram_cache"]["after_5000"] >= figures["intersection"]["after_5000"]
    assert set(figures["intersection"]) == {"prose", "code", "after_5000"}
