"""Another policy while requests run: nothing that was learnt is lost, and what runs ends where it began."""

from __future__ import annotations

from pathlib import Path

import pytest

from paceline.router.arms import Arm
from paceline.router.evidence import Knowledge, Observation, Shape
from paceline.router.learning import Learning
from paceline.router.policies import POLICIES
from paceline.router.policies.base import PolicyOptions
from paceline.router.reward import reward_of
from paceline.router.state import store_maker
from paceline.router.state.base import StateStore, StoreError
from paceline.router.state.memory import MemoryStore

ARM = Arm(("suffix",))
PLAIN = Arm(())


def learning_of(url: str, name: str = "ucb") -> Learning:
    options = PolicyOptions()
    return Learning({one: lambda make=make: make(options) for one, make in POLICIES.items()}, name, store_maker(url))


def told(learning: Learning, *speeds: float) -> None:
    for speed in speeds:
        learning.learn(Observation("m", ARM, reward_of(speed)))


def mean_of(learning: Learning) -> float:
    (report,) = learning.report("m", [ARM])
    return report.mean if report.pulls else 0.0


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory:" if request.param == "memory" else f"sqlite:///{tmp_path}/state.db"


async def test_a_policy_that_comes_back_knows_what_it_knew(url: str) -> None:
    learning = learning_of(url, "linucb")
    await learning.start()
    told(learning, 3.0, 3.0)
    assert await learning.change("thompson") == "linucb"
    assert mean_of(learning) == 0.0  # its evidence has more in it than linucb's
    told(learning, 1.5)
    await learning.close()  # with it, what linucb still had to store
    again = learning_of(url, "linucb") if url != "memory:" else learning
    if again is not learning:
        await again.start()
        assert mean_of(again) == pytest.approx(3.0)
        await again.change("thompson")
        assert mean_of(again) == pytest.approx(1.5)
        await again.close()


async def test_weights_and_rewards_go_along_to_policies_that_know_no_more(url: str) -> None:
    learning = learning_of(url, "linucb")
    await learning.start()
    told(learning, 2.0, 2.0, 2.0)
    for name in ("ucb", "epsilon", "hedge", "fixed"):
        await learning.change(name)
        assert learning.name == name
        assert mean_of(learning) == pytest.approx(2.0)
    told(learning, 2.0)
    await learning.change("linucb")
    assert mean_of(learning) == pytest.approx(2.0)
    await learning.close()


async def test_segments_that_run_end_under_the_policy_that_follows() -> None:
    learning = learning_of("memory:")
    await learning.start()
    learning.begin("m", ARM)
    learning.begin("m", ARM)
    learning.end("m", ARM)
    await learning.change("thompson")
    learning.begin("m", ARM)
    told(learning, 2.0)
    learning.end("m", ARM)
    learning.end("m", ARM)
    assert mean_of(learning) == pytest.approx(2.0)
    assert learning.choose("m", [PLAIN, ARM]).arm in (PLAIN, ARM)
    await learning.close()


async def test_to_the_same_policy_changes_nothing() -> None:
    learning = learning_of("memory:")
    await learning.start()
    told(learning, 2.0)
    assert await learning.change("ucb") == "ucb"
    assert mean_of(learning) == pytest.approx(2.0)
    await learning.close()


class Failing(MemoryStore):
    async def open(self, shape: Shape, known: Knowledge) -> Knowledge:
        if shape.policy == "thompson":
            raise StoreError("the disk is full")
        return await super().open(shape, known)


async def test_where_the_store_fails_the_policy_stays() -> None:
    kept: dict[Shape, Knowledge] = {}
    options = PolicyOptions()

    def make() -> StateStore:
        return Failing(kept)

    policies = {name: lambda name=name: POLICIES[name](options) for name in ("ucb", "thompson", "epsilon")}
    learning = Learning(policies, "ucb", make)
    await learning.start()
    told(learning, 2.0)
    with pytest.raises(StoreError, match="disk is full"):
        await learning.change("thompson")
    assert learning.name == "ucb"
    assert mean_of(learning) == pytest.approx(2.0)
    assert await learning.change("epsilon") == "ucb"
    await learning.close()
