"""What is kept of a prompt: a few numbers between 0 and 1."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.router.context import FEATURES, MAX_HEAD, NEUTRAL, Prompt, prompt_of
from paceline.router.convert import prompt_from_proto
from paceline.v1 import generation_pb2, types_pb2

PROSE = (
    "The river had risen in the night and nobody in the village had slept, since the old bridge was known to be weak."
)
LINE = "    return {k: v[0] for k, v in x.items() if (k != '_') and v}\n\nassert f({'a': [1]}) == {'a': 1}\n"
CODE = 3 * f"def f(x):\n{LINE}"


@given(st.text(), st.integers(0, 10**9), st.floats(0.0, 100.0), st.floats(0.0, 50.0), st.none() | st.floats(0.0, 50.0))
def test_every_feature_lies_between_0_and_1_and_the_first_is_1(
    text: str, length: int, temperature: float, load: float, accepted: float | None
) -> None:
    context = prompt_of(text, length).context(temperature, load, accepted)
    assert len(context) == len(FEATURES) == len(NEUTRAL)
    assert context[0] == 1.0
    assert all(0.0 <= value <= 1.0 for value in context)


def test_kinds_of_prompts_differ_where_they_should() -> None:
    prose, code = prompt_of(PROSE, len(PROSE)), prompt_of(CODE, len(CODE))
    assert code.code > 0.5 > 0.1 > prose.code
    assert code.repetitive > 0.4 > 0.05 > prose.repetitive
    assert prompt_of("What is 17 * 23 + 4818 / 22?", 28).digits > 0.8
    assert prompt_of("翻訳してください: 今日は天気がいい", 20).foreign > 0.8
    lengths = [prompt_of("x", count).length for count in (0, 64, 640, 6400, 64_000, 2**20, 2**40)]
    assert lengths == sorted(lengths)
    assert (lengths[0], lengths[-1]) == (0.0, 1.0)


def test_what_depends_on_the_moment_is_added_then() -> None:
    assert Prompt().context(0.0, 0.0) == NEUTRAL
    context = dict(zip(FEATURES, Prompt().context(0.7, 3.0), strict=True))
    assert (context["sampled"], context["load"]) == (1.0, 1.0)
    seen = dict(zip(FEATURES, Prompt().context(0.0, 0.0, 1.0), strict=True))
    assert (seen["seen"], seen["accepted"]) == (1.0, 0.25)
    assert Prompt().context(0.0, 0.0, 0.0) != NEUTRAL


def test_only_the_beginning_is_looked_at_so_the_cost_is_bounded() -> None:
    text = PROSE * 40_000
    assert prompt_of(text, 5) == prompt_of(text[:MAX_HEAD], 5)
    began = time.process_time()
    for _ in range(20):
        prompt_of(text, len(text))
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (generation_pb2.GenerateRequest(text=CODE), prompt_of(CODE, len(CODE))),
        (
            generation_pb2.GenerateRequest(
                messages=types_pb2.ChatMessages(
                    messages=[
                        types_pb2.ChatMessage(role="system", content=PROSE),
                        types_pb2.ChatMessage(role="user", content=CODE),
                    ]
                )
            ),
            prompt_of(CODE, len(CODE) + len(PROSE)),
        ),
        (generation_pb2.GenerateRequest(token_ids=types_pb2.TokenIds(ids=[1] * 100)), prompt_of("", 400)),
        (generation_pb2.GenerateRequest(), Prompt()),
    ],
)
def test_of_a_conversation_the_last_message_counts_and_of_tokens_only_how_many(
    request_: generation_pb2.GenerateRequest, expected: Prompt
) -> None:
    assert prompt_from_proto(request_) == expected
