"""What a tenant may use: refused is only what is too much, and only for as long as it is."""

from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from paceline.router.access.quota import Limits, Quota
from paceline.wire.errors import PacelineError, Reason


def quota_of(**limits: int) -> Quota:
    return Quota("acme", Limits(**limits), 0.0)


def refusal_of(quota: Quota, count: int, now_s: float) -> PacelineError:
    with pytest.raises(PacelineError) as refused:
        quota.enter(count, now_s)
    return refused.value


def test_without_limits_there_are_none() -> None:
    quota = quota_of()
    quota.enter(10_000, 0.0)
    quota.charge(10**9, 0.0)
    quota.check_prompt("text", 10**9, 10**9)
    quota.check_max_tokens(10**9)
    quota.enter(1, 0.0)
    assert (quota.running, quota.num_requests, quota.num_tokens) == (10_001, 10_001, 10**9)


def test_requests_at_once() -> None:
    quota = quota_of(requests_at_once=2)
    quota.enter(2, 0.0)
    error = refusal_of(quota, 1, 0.0)
    assert error.reason is Reason.RATE_LIMITED
    assert error.retry_after_s == 1.0
    assert "'acme' has 2 requests in progress; it may have 2" in error.message
    quota.leave(1)
    quota.enter(1, 0.0)
    assert quota.num_refused == 1


def test_requests_a_minute_say_when_to_come_back() -> None:
    quota = quota_of(requests_per_minute=30)
    quota.enter(30, 0.0)
    error = refusal_of(quota, 2, 1.0)
    assert error.reason is Reason.RATE_LIMITED
    assert error.retry_after_s == pytest.approx(3.0)
    quota.enter(2, 4.001)


def test_requests_that_came_to_nothing_are_not_counted() -> None:
    quota = quota_of(requests_per_minute=3)
    for _ in range(10):
        quota.enter(3, 0.0)
        quota.forget(3, 0.0)
        quota.leave(3)
    assert (quota.running, quota.num_requests) == (0, 0)


@pytest.mark.parametrize("limit", ["requests_at_once", "requests_per_minute"])
def test_what_never_fits_is_not_told_to_wait(limit: str) -> None:
    error = refusal_of(quota_of(**{limit: 3}), 4, 0.0)
    assert error.reason is Reason.OUT_OF_RANGE
    assert error.retry_after_s is None
    assert "at most 3: tenant 'acme'" in error.message


def test_tokens_a_minute_are_paid_for_afterwards() -> None:
    quota = quota_of(tokens_per_minute=60)
    quota.enter(1, 0.0)
    quota.charge(100, 0.0)  # what runs is not cut
    error = refusal_of(quota, 1, 0.0)
    assert error.reason is Reason.RATE_LIMITED
    assert error.retry_after_s == pytest.approx(41.0)
    quota.enter(1, 41.001)


def test_sizes_name_what_is_too_large_and_the_limit() -> None:
    quota = quota_of(prompt_bytes=10, prompt_tokens=5, max_tokens=7)
    quota.check_prompt("text", 10, 5)
    quota.check_max_tokens(7)
    quota.check_max_tokens(0)
    for num_bytes, num_tokens, words in ((11, 0, "11 bytes"), (0, 6, "6 tokens")):
        with pytest.raises(PacelineError, match=words) as refused:
            quota.check_prompt("text", num_bytes, num_tokens)
        assert refused.value.reason is Reason.PROMPT_TOO_LONG
    with pytest.raises(PacelineError, match="at most 7 for tenant 'acme'") as refused:
        quota.check_max_tokens(8)
    assert refused.value.reason is Reason.OUT_OF_RANGE


@given(st.sampled_from([field.name for field in fields(Limits)]), st.integers(1, 50))
def test_limits_may_come_and_go(name: str, limit: int) -> None:
    quota = quota_of()
    quota.enter(2, 0.0)
    for limits in (Limits(**{name: limit}), Limits(), Limits(**{name: limit})):
        quota.limit(limits, 1.0)
        assert quota.limits == limits
        assert quota.running == 2
    quota.leave(2)


class Use(RuleBasedStateMachine):
    """Whatever a tenant does, it never has more in progress, nor begun more, than it may."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.quota = quota_of(requests_at_once=5, requests_per_minute=12)
        self.running: list[int] = []
        self.begun = 0

    @rule(passed_s=st.floats(0.0, 30.0))
    def wait(self, passed_s: float) -> None:
        self.now_s += passed_s

    @rule(count=st.integers(1, 6), fails=st.booleans())
    def begin(self, count: int, fails: bool) -> None:
        try:
            self.quota.enter(count, self.now_s)
        except PacelineError:
            return
        if fails:
            self.quota.forget(count, self.now_s)
            self.quota.leave(count)
        else:
            self.begun += count
            self.running.append(count)

    @precondition(lambda self: self.running)
    @rule()
    def end(self) -> None:
        self.quota.leave(self.running.pop())

    @invariant()
    def never_too_much(self) -> None:
        assert self.quota.running == sum(self.running) <= 5
        assert self.quota.num_requests == self.begun <= 12 + self.now_s * 12 / 60 + 1e-3


TestUse = Use.TestCase
