"""Kills routers, verifiers, Redis and drafters in mid-stream, for many rounds, and compares all texts."""

from __future__ import annotations

import asyncio
import random
import shlex
import shutil
import sys
from typing import Annotated

import typer
from errands import answers_of, draw_errands
from fleet import ROUTERS, Fleet, fleet_in
from killing_plans import NUM_ERRANDS, draw_plans
from killing_report import every_round, figures, table_of
from killing_round import Played, play
from machine import describe_machine
from options import INTERRUPTED, JsonFile, outputs
from rounds import BenchError
from showing import Told, errors, progress_of, publish
from tiny_target import make_tiny_target
from transformers.utils import logging as transformers_logging

from paceline.cli.stack import StackError


def main(
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Each kills one process.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Of what is asked, and of who is killed when.")] = 1,
    policy: Annotated[str, typer.Option(help="Of the routers.")] = "linucb",
    json_path: JsonFile = None,
) -> None:
    """Kills one process of two routers on a Redis, two verifiers and three drafters, again and again.

    The model is tiny. In each round ten requests run over gRPC and HTTP; one process gets SIGKILL in the middle, and
    comes back at its address.

    Every request of a live router must end with the text it would have had; those of a killed one end with a broken
    connection and must have that text when they are asked of the other. pause: the longest time without a token for a
    request of a live router. back: from starting the victim again until everybody knows everybody.
    """
    played: list[Played] = []
    try:
        target, _ = outputs(json_path, None)
        if shutil.which("redis-server") is None:
            raise BenchError("redis-server is not installed (Debian: apt-get install redis-server)")
        with progress_of(rounds) as (folder, tell):
            tell("starting", 0)
            transformers_logging.disable_progress_bar()  # of a model that is written in no time
            model = make_tiny_target(folder / "model")
            with fleet_in(folder / "fleet", model, policy) as fleet:
                asyncio.run(_play_all(fleet, rounds, seed, played, tell))
    except (BenchError, StackError, AssertionError) as error:
        errors.print(f"killing: after {len(played)} rounds: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    report = {
        **figures(played),
        "rounds": every_round(played),
        "seed": seed,
        "policy": policy,
        "machine": describe_machine(),
        "command": shlex.join(["killing", *sys.argv[1:]]),
    }
    faults = [f"round {one.plan.number}, {one.plan.victim}: {fault}" for one in played for fault in one.faults]
    publish(report, iter([table_of(report)]), iter(faults), lambda _report, _path: None, target, None)
    if faults:
        raise typer.Exit(1)


async def _play_all(fleet: Fleet, rounds: int, seed: int, played: list[Played], tell: Told) -> None:
    rng = random.Random(seed)
    errands = draw_errands(rng, NUM_ERRANDS)
    await fleet.start_all()
    known = await answers_of(errands, ROUTERS[0], fleet.addresses[ROUTERS[0]])
    for plan in draw_plans(rng, rounds, errands):
        tell(f"killing {plan.victim}", 0)
        played.append(await play(fleet, plan, known))
        tell(f"killing {plan.victim}", 1)


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
