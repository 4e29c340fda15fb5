"""Routers, verifiers, Redis and drafters killed in mid-stream: every text is what it would have been.

`./bazelw run //tools/e2e:killing` plays as many rounds as one likes.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest
from errands import answers_of, draw_errands
from fleet import ROUTERS, fleet_in
from killing_plans import NUM_ERRANDS, Kind, draw_plans
from killing_report import figures, table_of
from killing_round import Played, play
from tiny_target import make_tiny_target

ROUNDS, SEED = 8, 3


def test_a_seed_draws_each_kind_equally_often() -> None:
    errands = draw_errands(random.Random(0), NUM_ERRANDS)
    plans = draw_plans(random.Random(1), 12, errands)
    assert plans == draw_plans(random.Random(1), 12, errands)
    assert plans != draw_plans(random.Random(2), 12, errands)
    for kind in Kind:
        assert sum(plan.kind is kind for plan in plans) == 3
    for plan in plans:
        assert {router for _errand, _door, router in plan.asked} == set(ROUTERS)


def test_figures_are_by_victim_and_of_all() -> None:
    plans = draw_plans(random.Random(1), 4, draw_errands(random.Random(0), NUM_ERRANDS))
    rounds = [Played(plan, running=3, failovers=1, pause_s=number, back_s=2.0) for number, plan in enumerate(plans)]
    rounds[0].faults.append("another text")
    report = figures(rounds)
    assert report["victims"].keys() == {kind.value for kind in Kind}
    assert report["victims"][plans[0].kind.value]["faults"] == report["all"]["faults"] == 1
    assert (report["all"]["rounds"], report["all"]["requests"], report["all"]["failovers"]) == (4, 40, 4)
    assert report["all"]["pause_s"] == {"median": 1.5, "max": 3}
    assert table_of(report).row_count == 5


@pytest.mark.timeout(800)
def test_whoever_is_killed_every_text_is_what_it_would_have_been(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = make_tiny_target(tmp_path_factory.mktemp("model"))

    async def rounds() -> None:
        rng = random.Random(SEED)
        errands = draw_errands(rng, NUM_ERRANDS)
        await fleet.start_all()
        known = await answers_of(errands, ROUTERS[0], fleet.addresses[ROUTERS[0]])
        running = broken = failovers = 0
        for plan in draw_plans(rng, ROUNDS, errands):
            played = await play(fleet, plan, known)
            assert not played.faults, (plan.kind, plan.victim, played.faults)
            running += played.running
            broken += played.broken
            failovers += played.failovers
        # Otherwise nobody was there to notice.
        assert running > ROUNDS
        assert broken > 0
        assert failovers > 0

    with fleet_in(tmp_path, model) as fleet:
        asyncio.run(rounds())
