"""Who is taken for lost: verifiers that say nothing to anybody, and no others."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.router.failures import Verdict, VerifierError, judge
from paceline.router.watch import TICKS, Watch

LEASE_S = 6.0
ACCEPT_S = 30.0


class Lease:
    """When a verifier announced itself last."""

    def __init__(self) -> None:
        self.announced_s: float | None = 0.0

    def __call__(self) -> float | None:
        return self.announced_s

    def renew(self) -> None:
        self.announced_s = (self.announced_s or 0.0) + 1.0


def watch_of(lease: Lease, elsewhere: bool = True) -> Watch:
    return Watch(LEASE_S, ACCEPT_S, lease, lambda: elsewhere)


def verdict(error: VerifierError) -> Verdict:
    return judge(error, may_drop=False, named=False, continuing=False)


def ticks_until_given_up(watch: Watch, lease: Lease, renews: bool) -> tuple[int, VerifierError]:
    for num_ticks in range(1, 1000):
        if renews:
            lease.renew()
        error = watch.tick()
        if error is not None:
            return num_ticks, error
    raise AssertionError("never given up")


def test_one_that_is_silent_and_announces_nothing_is_lost_after_a_lease() -> None:
    for accepted in (False, True):
        lease = Lease()
        watch = watch_of(lease)
        watch.listens()
        if accepted:
            watch.heard()
            watch.listens()
        num_ticks, error = ticks_until_given_up(watch, lease, renews=False)
        assert (num_ticks - 1) * watch.tick_s == LEASE_S
        assert verdict(error) is Verdict.LOST


def test_a_lease_that_ran_out_is_no_announcement() -> None:
    lease = Lease()
    watch = watch_of(lease)
    watch.listens()
    lease.announced_s = None
    assert ticks_until_given_up(watch, lease, renews=False)[0] == TICKS + 1


def test_where_there_is_nobody_else_it_is_waited_for_until_there_is() -> None:
    somebody = [False]
    watch = Watch(LEASE_S, ACCEPT_S, Lease(), lambda: somebody[0])
    watch.listens()
    watch.heard()
    watch.listens()
    for _ in range(100):
        assert watch.tick() is None
    somebody[0] = True
    assert watch.tick() is not None


def test_one_that_announces_itself_may_let_an_accepted_request_wait_for_ever() -> None:
    lease = Lease()
    watch = watch_of(lease)
    watch.listens()
    watch.heard()
    watch.listens()
    for _ in range(1000):
        lease.renew()
        assert watch.tick() is None


def test_one_that_announces_itself_but_does_not_take_the_request_up_is_busy_and_not_lost() -> None:
    lease = Lease()
    watch = watch_of(lease)
    watch.listens()
    num_ticks, error = ticks_until_given_up(watch, lease, renews=True)
    assert (num_ticks - 1) * watch.tick_s == ACCEPT_S
    assert verdict(error) is Verdict.BUSY


@settings(deadline=None)
@given(st.lists(st.sampled_from(["token", "announcement", "reader stalls", "reader goes on"]), max_size=80))
def test_who_is_not_listened_to_or_says_something_in_time_is_never_given_up(script: list[str]) -> None:
    lease = Lease()
    watch = watch_of(lease)
    watch.listens()
    listening = True
    for step in script:
        if step == "announcement":
            lease.renew()
        elif step == "reader stalls":
            watch.heard()
            listening = False
        else:
            watch.heard()
            watch.listens()
            listening = True
        for _ in range(TICKS if listening else 100):
            assert watch.tick() is None
        if listening:
            watch.heard()
            watch.listens()
