"""What `consensus` proposes: the votes of other answers to the same prompt."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_session import commit, context, paths

from paceline.drafter.automaton import SuffixAutomaton
from paceline.drafter.strategies import consensus as consensus_module
from paceline.drafter.strategies.base import NUM_BINS, Budget, Context, ScopeBounds
from paceline.drafter.strategies.consensus import ENOUGH, Consensus, ConsensusProposer, ballot
from paceline.drafter.strategies.matching import View

BOUNDS = ScopeBounds(vocab_size=1000, max_tokens=600)
BUDGET = Budget(max_nodes=32, max_depth=16)
PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]


class Sample:
    """One answer, as a session of a scope."""

    def __init__(self, scope: Consensus, answer: list[int] | None = None, prompt: list[int] | None = None) -> None:
        self.context: Context = context(prompt or PROMPT)
        self.proposer: ConsensusProposer = scope.begin(self.context)
        if answer:
            self.say(answer)

    def say(self, tokens: list[int]) -> None:
        self.context.tokens += tokens
        self.proposer.observe(commit(tokens))

    def draft(self, budget: Budget = BUDGET) -> dict[tuple[int, ...], float]:
        return paths(self.proposer.draft(budget))


def test_running_answers_are_followed_from_the_prompt_on() -> None:
    scope = Consensus(BOUNDS)
    first = Sample(scope, [20, 21, 22])
    second = Sample(scope)
    assert (20, 21, 22) in second.draft()
    second.say([20, 21])
    assert (22,) in second.draft()
    assert not first.draft(), "what a session said itself is not a vote"


def test_the_more_agree_the_likelier() -> None:
    scope = Consensus(BOUNDS)
    samples = [Sample(scope, [20, 30])]
    seen = []
    for _ in range(3):
        seen.append(Sample(scope).draft()[20,])
        samples.append(Sample(scope, [20, 31]))
    assert seen == sorted(seen)
    assert seen[0] < seen[-1]
    samples.append(Sample(scope, [25]))
    found = Sample(scope).draft()
    assert found[20,] > found[25,] > 0
    assert found[20, 31] > found[20, 30]


def test_the_own_answer_drowns_no_other() -> None:
    """It matches itself at full length; the others' matches are shorter, and are heard nevertheless."""
    scope = Consensus(BOUNDS)
    other = Sample(scope, [41, 30, 60])
    assert (60,) in Sample(scope, [42, 30]).draft()
    assert other.context.tokens[-1] == 60


def test_other_prompts_have_no_vote() -> None:
    scope = Consensus(BOUNDS)
    other = Sample(scope, [20, 21], prompt=[*PROMPT[:-1], 13])
    longer = Sample(scope, [20, 21], prompt=[99, *PROMPT])
    assert not Sample(scope, [20]).draft()
    assert not other.draft()
    assert not longer.draft()


def test_complete_answers_stay_and_dropped_ones_go() -> None:
    scope = Consensus(BOUNDS)
    complete = Sample(scope, [20, 21])
    complete.proposer.end()
    del complete
    dropped = Sample(scope, [30, 31])
    assert {(20,), (30,)} <= set(Sample(scope).draft())
    del dropped
    gc.collect()
    found = Sample(scope).draft()
    assert (20, 21) in found
    assert (30,) not in found


def test_joining_late_is_like_having_been_there() -> None:
    scope = Consensus(BOUNDS)
    early = Sample(scope, [20, 21, 22, 23])
    late = context([*PROMPT, 20, 21], prompt_tokens=len(PROMPT))
    assert (22, 23) in paths(scope.begin(late).draft(BUDGET))
    assert early.context.tokens[-1] == 23


def test_nothing_stays_without_a_memory() -> None:
    scope = Consensus(ScopeBounds(vocab_size=1000, max_tokens=0))
    complete = Sample(scope, [20, 21])
    complete.proposer.end()
    del complete
    gc.collect()
    assert scope.num_remembered == 0
    assert not Sample(scope).draft()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 80)), max_size=60), st.integers(0, 300))
def test_memory_is_bounded_and_the_oldest_prompts_leave(answers: list[tuple[int, int]], max_tokens: int) -> None:
    scope = Consensus(ScopeBounds(vocab_size=1000, max_tokens=max_tokens))
    for prompt, size in answers:
        sample = Sample(scope, list(range(100, 100 + size)), prompt=[prompt, *PROMPT])
        sample.proposer.end()
        assert 0 <= scope.num_remembered <= max_tokens
    if answers and answers[-1][1] > 0 and answers[-1][1] + consensus_module.PROMPT_TAIL <= max_tokens:
        assert Sample(scope, prompt=[answers[-1][0], *PROMPT]).draft(), "the last one is remembered"


def test_prompts_and_answers_are_bounded_in_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consensus_module, "MAX_PROMPTS", 4)
    monkeypatch.setattr(consensus_module, "MAX_COMPLETE", 2)
    scope = Consensus(ScopeBounds(vocab_size=1000, max_tokens=10_000))
    for prompt in range(20):
        for answer in (50, 60, 70):
            Sample(scope, [answer], prompt=[prompt]).proposer.end()
    assert set(Sample(scope, prompt=[19]).draft()) == {(60,), (70,)}
    assert not Sample(scope, prompt=[5]).draft()
    assert scope.num_remembered <= 4 * 2 * 2


def test_an_endless_answer_is_indexed_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consensus_module, "MAX_ANSWER", 20)
    scope = Consensus(BOUNDS)
    sample = Sample(scope)
    for token in range(100, 200):
        sample.say([token])
    sample.proposer.end()
    assert scope.num_remembered == 20


@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=6), st.integers(0, 3))
def test_votes_are_shares_of_the_answers_that_are_heard(texts: list[list[int]], last: int) -> None:
    views: list[View] = []
    heard = []
    for tokens in texts:
        text = SuffixAutomaton()
        text.extend(tokens)
        views.append((text, *text.match([last])))
        after = [tokens[place + 1] for place in range(len(tokens) - 1) if tokens[place] == last]
        if after:
            heard.append(after)
    found = ballot(views, 0.0)
    assert set(found) == {token for after in heard for token in after}
    assert sum(confidence for confidence, _ in found.values()) <= 1 + 1e-9
    assert all(0 <= kind < NUM_BINS for _, kind in found.values())
    for token, (confidence, _) in found.items():
        votes = sum(after.count(token) / len(after) for after in heard)
        assert confidence == pytest.approx(votes / len(heard) * (1 - 0.74 / max(votes, 1)))


def test_long_matches_are_equals_and_short_ones_are_not_heard_beside_them() -> None:
    scope = Consensus(BOUNDS)
    tail = list(range(100, 100 + ENOUGH))
    samples = [Sample(scope, [40, *tail, 50]), Sample(scope, [41, *tail, 50]), Sample(scope, [42, tail[-1], 60])]
    found = Sample(scope, [40, *tail]).draft()
    assert (50,) in found
    assert (60,) not in found
    assert len(samples) == 3
