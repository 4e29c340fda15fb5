"""Log-probabilities and figures of speculation in the shapes that clients know."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.router.http.log_probs import LEAST, Offsets, chat_log_probs, completion_log_probs
from paceline.router.http.speculation import Acceptance
from paceline.v1 import generation_pb2


def token(piece: bytes, log_prob: float = -1.0, **top: float) -> generation_pb2.TokenLogProbs:
    likeliest = [generation_pb2.TokenLogProb(piece=key.encode(), log_prob=value) for key, value in top.items()]
    one = generation_pb2.TokenLogProb(piece=piece, log_prob=log_prob)
    return generation_pb2.TokenLogProbs(token=one, top=likeliest)


# Each step accepts so many candidates and ends with a token of the target's own; the last may be cut off.
STEPS = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@given(STEPS, st.booleans(), st.integers(0, 50))
def test_the_histogram_has_every_step(steps: list[int], cut: bool, wrong: int) -> None:
    sources = [source for accepted in steps for source in (*itertools.repeat(3, accepted), 0)]
    if cut and steps[-1]:
        sources.pop()
    acceptance = Acceptance()
    for start in range(0, len(sources), 4):
        acceptance.committed(sources[start : start + 4])
    accepted = sum(steps)
    total = generation_pb2.Outcome(tokens=len(sources), steps=len(steps), nodes=accepted + wrong)
    figures = acceptance.summary(total)
    if not accepted + wrong:
        assert figures is None
        return
    assert figures is not None
    assert figures.acceptance_histogram == [steps.count(length) for length in range(max(steps) + 1)]
    assert (figures.num_spec_steps, figures.num_accepted_draft_tokens) == (len(steps), accepted)
    assert figures.mean_acceptance_length == pytest.approx(1 + accepted / len(steps))
    assert figures.draft_acceptance_rate == pytest.approx(accepted / (accepted + wrong))


def test_figures_agree_with_one_another_if_the_pass_that_read_the_prompt_accepted_something() -> None:
    acceptance = Acceptance()
    acceptance.committed([1, 1, 0, 1, 0])  # of two passes only the second is counted as a step
    figures = acceptance.summary(generation_pb2.Outcome(tokens=5, steps=1, nodes=5))
    assert figures is not None
    assert sum(figures.acceptance_histogram) == figures.num_spec_steps == 2
    assert figures.acceptance_histogram == [0, 1, 1]


def test_what_is_impossible_has_a_number() -> None:
    shown = chat_log_probs([token(b"a", float("-inf"), b=float("nan"))])
    assert shown.content is not None
    assert shown.content[0].logprob == LEAST
    assert shown.content[0].top_logprobs[0].logprob == LEAST


def test_pieces_of_characters() -> None:
    euro = "€".encode()
    tokens = [token(b"1 "), token(euro[:1]), token(euro[1:]), token(b"!")]
    chat = chat_log_probs(tokens)
    assert chat.content is not None
    assert bytes(byte for one in chat.content for byte in one.bytes).decode() == "1 €!"
    shown = completion_log_probs(tokens, Offsets())
    assert shown.text_offset == [0, 2, 2, 3]
    assert list(shown.top_logprobs[1]) == ["bytes:\\xe2"]
    assert list(shown.top_logprobs[2]) == ["bytes:\\x82\\xac"]


@given(st.text(max_size=20), st.data())
def test_offsets_are_where_characters_begin(text: str, data: st.DataObject) -> None:
    whole = text.encode()
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=8)) | {0, len(whole)})
    offsets = Offsets()
    for start, end in itertools.pairwise(cuts):
        offset = offsets.push(whole[start:end])
        assert offset == len(whole[:start].decode(errors="ignore"))


def test_the_token_itself_is_among_the_likeliest() -> None:
    shown = completion_log_probs([token(b"rare", -9.0, common=-0.1, usual=-2.0)], Offsets())
    assert shown.top_logprobs == [pytest.approx({"common": -0.1, "usual": -2.0, "rare": -9.0})]
    assert shown.token_logprobs == [-9.0]
