"""One run: a verifier and drafters that several routers share, asked the same questions through each in rotation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import hindering_drafter
from comparison import WARM_UP, WARM_UP_TOKENS
from deployment import asker, last_words
from figures import OFF, Measurement
from machine import describe_machine
from mixes import DrafterProcess
from questions import Question
from rounds import BenchError, Messages, Rounds

from paceline.cli.stack import Stack, StackError
from paceline.router.arms import PLAIN, Arm, arm_of, arms_for
from paceline.v1 import router_pb2, router_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

BY_HAND = "by-hand"  # the router that is told which drafters
START_S = 600.0
TIMEOUT_S = 30.0

Say = Callable[[str, int], None]  # what happens now, and how many answers came since the last call


@dataclass(frozen=True)
class Plan:
    """What is to be measured. `arms` has plain decoding among them."""

    questions: Sequence[Question]
    model: str
    dtype: str
    max_new_tokens: int
    temperature: float
    repeat: int
    drafters: Sequence[DrafterProcess]
    policies: Sequence[str]
    arms: Sequence[Arm]
    segment_tokens: int
    verifier_arguments: Sequence[str]

    @property
    def answers(self) -> int:
        """How many answers the run comes to."""
        turns = sum(len(question.turns) for question in self.questions)
        return turns * self.repeat * (len(self.arms) + len(self.policies))


@dataclass
class Outcome:
    """What a run leaves behind. `prompts` are by question and turn; `beliefs` by policy what its router believes of
    each arm in the end."""

    measured: list[Measurement] = field(default_factory=list)
    prompts: dict[tuple[str, int], Messages] = field(default_factory=dict)
    beliefs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    complete: bool = False


def arms_by_hand(text: str, names: Sequence[str]) -> tuple[Arm, ...]:
    """The arms that '; ' separates, or all that a router would choose from; plain decoding always.

    Raises:
        BenchError: a drafter that isn't there, or none at all.
    """
    if not names:
        raise BenchError("no drafters: give --drafters or --hindering")
    found = [PLAIN]
    for part in filter(None, (part.strip() for part in text.split(";"))):
        wanted = [] if part == "none" else [name.strip() for name in part.split("+")]
        if unknown := [name for name in wanted if name not in names]:
            raise BenchError(f"--arms: no drafter {unknown[0]!r}; there are {', '.join(names)}")
        found.append(arm_of(wanted))
    return tuple(dict.fromkeys(found)) if text.strip() else arms_for(names)


def run(plan: Plan, folder: Path, say: Say) -> Outcome:
    """Runs the plan; logs go to `folder`. Ctrl-C ends it early and keeps what was measured.

    Raises:
        BenchError: something did not start, or a question can't be answered.
    """
    outcome = Outcome(facts={"machine": describe_machine()})
    with Stack(folder) as stack:
        try:
            say(f"loading {plan.model}", 0)
            routers = _deploy(stack, plan)
            asyncio.run(_measure(plan, routers, outcome, say))
            outcome.beliefs = {policy: _beliefs(routers[policy]) for policy in plan.policies}
            outcome.complete = True
        except KeyboardInterrupt:
            say("interrupted", 0)
        except StackError as error:
            raise BenchError(last_words(stack.services.values()) or str(error)) from error
    return outcome


def _deploy(stack: Stack, plan: Plan) -> dict[str, str]:
    """Starts everything; returns the routers' addresses by policy."""
    names = [BY_HAND, *plan.policies]
    segment = ("--segment-tokens", str(plan.segment_tokens))
    for name in names:
        policy = "fixed" if name == BY_HAND else name
        stack.start(f"router-{name}", "router", "--state", "memory:", "--policy", policy, *segment)
    stack.wait()
    routers = {name: stack.services[f"router-{name}"].address for name in names}
    announce = ("--router", ",".join(routers.values()))
    stack.start(
        "verifier", "verifier", "--model", plan.model, "--dtype", plan.dtype, *announce, *plan.verifier_arguments
    )
    for drafter in plan.drafters:
        if drafter.strategies[0] in hindering_drafter.HINDERING:
            listen = ("--listen", "127.0.0.1:0")
            stack.spawn(drafter.name, hindering_drafter.__file__, "serve", *listen, *drafter.arguments, *announce)
        else:
            stack.start(drafter.name, "drafter", *drafter.arguments, *announce)
    stack.wait(timeout_s=START_S)
    for router in routers.values():
        stack.wait_connected(router, [drafter.name for drafter in plan.drafters])
    return routers


async def _measure(plan: Plan, routers: dict[str, str], outcome: Outcome, say: Say) -> None:
    async with AsyncExitStack() as channels:
        stubs = {
            name: router_pb2_grpc.RouterStub(await channels.enter_async_context(connect(address, ClientSettings())))
            for name, address in routers.items()
        }
        how: dict[str, Any] = {"remember": True, "temperature": plan.temperature}
        learned = {policy: asker(stubs[policy], speculation=True, **how) for policy in plan.policies}
        by_hand = {
            str(arm) if arm.drafters else OFF: asker(
                stubs[BY_HAND], speculation=bool(arm.drafters), drafters=arm.drafters, **how
            )
            for arm in plan.arms
        }
        rounds = Rounds(plan.questions, {**by_hand, **learned}, plan.max_new_tokens, lambda what: say(what, 1))
        outcome.measured, outcome.prompts = rounds.measured, rounds.prompts
        say("warming up", 0)
        for ask in by_hand.values():
            await ask(WARM_UP, min(WARM_UP_TOKENS, plan.max_new_tokens), "warm-up")
        for repeat in range(plan.repeat):
            await rounds.alternate(repeat)


def _beliefs(router: str) -> list[dict[str, Any]]:
    with grpc.insecure_channel(router) as channel:
        status = router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest(), timeout=TIMEOUT_S)
    total = sum(arm.pulls for arm in status.arms) or 1.0
    return [
        {
            "arm": str(arm_of(arm.drafters)),
            "share": round(arm.pulls / total, 3),
            "mean_reward": round(arm.mean_reward, 3),
        }
        for arm in status.arms
    ]
