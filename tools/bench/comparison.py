"""One run: starts what is compared, asks all of it the same questions, and stops it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployment import Deployment, asker, deploy
from figures import LOOKUP, OFF, ON, PLAIN
from interference import Interference, interfere
from machine import describe_machine, versions
from mixes import DrafterProcess
from questions import Question
from rounds import Asker, BenchError, Rounds
from transformers_peer import TransformersPeer

from paceline.cli.stack import Stack
from paceline.v1 import router_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

# Nothing here may import paceline.verifier: that sets how OpenMP's threads wait, for the children too, and
# transformers is to be measured with its defaults.

SESSIONS = 8  # what a verifier runs at once unless told otherwise
WARM_UP = (("user", "Name the days of the week, then name them again in the opposite order, then say why."),)
WARM_UP_TOKENS = 16


@dataclass(frozen=True)
class Plan:
    """What is to be measured. `transformers_dtype` is empty if transformers isn't."""

    questions: Sequence[Question]
    model: str
    dtype: str
    transformers_dtype: str
    max_new_tokens: int
    repeat: int
    concurrency: Sequence[int]
    long_prompt: int  # tokens; 0 measures no interference
    drafters: Sequence[DrafterProcess]
    memory: bool
    verifier_arguments: Sequence[str]

    @property
    def answers(self) -> int:
        """How many answers the run comes to."""
        systems = 4 if self.transformers_dtype else 2
        turns = sum(len(question.turns) for question in self.questions)
        return turns * self.repeat * (systems + 2 * len(self.concurrency))


@dataclass
class Outcome:
    """What a run leaves behind; one that was interrupted, or ended by an error, is not complete."""

    rounds: Rounds
    facts: dict[str, Any] = field(default_factory=dict)
    interference: dict[str, Interference] = field(default_factory=dict)
    complete: bool = False
    error: str = ""


Say = Callable[[str, int], None]  # what happens now, and how many answers came since the last call


def compare(plan: Plan, folder: Path, say: Say) -> Outcome:
    """Runs the plan; logs go to `folder`. Ctrl-C or a late error ends it early and keeps what was measured.

    Raises:
        BenchError: something did not start, or not even the first question can be answered.
    """
    outcome = Outcome(Rounds(plan.questions, {}, plan.max_new_tokens, lambda what: say(what, 1)))
    with Stack(folder) as stack:
        try:
            say(f"loading {plan.model}", 0)
            deployment = deploy(
                stack,
                model=plan.model,
                dtype=plan.dtype,
                verifier_arguments=_verifier_arguments(plan),
                drafters=plan.drafters,
            )
            outcome.facts = {
                "dtype": deployment.dtype,
                "machine": describe_machine(),
                "versions": versions(deployment.versions),
            }
            asyncio.run(_measure(plan, deployment, folder, outcome, say))
            outcome.complete = True
        except KeyboardInterrupt:
            say("interrupted", 0)
        except BenchError as error:
            if not outcome.rounds.measured:
                raise
            outcome.error = str(error)
    return outcome


async def _measure(plan: Plan, deployment: Deployment, folder: Path, outcome: Outcome, say: Say) -> None:
    rounds = outcome.rounds
    async with (
        connect(deployment.router, ClientSettings()) as channel,
        _transformers(plan, deployment, folder, outcome, say) as theirs,
    ):
        stub = router_pb2_grpc.RouterStub(channel)
        ours = {system: asker(stub, speculation=system == ON, remember=plan.memory) for system in (OFF, ON)}
        rounds.askers = {**theirs, **ours}
        say("warming up", 0)
        for ask in rounds.askers.values():
            await ask(WARM_UP, min(WARM_UP_TOKENS, plan.max_new_tokens), "warm-up")
        for repeat in range(plan.repeat):
            await rounds.alternate(repeat)
            for number in plan.concurrency:
                for system in (OFF, ON) if repeat % 2 == 0 else (ON, OFF):
                    await rounds.crowd(system, number, repeat)
        if plan.long_prompt:
            say("a long prompt beside a running session", 0)
            for system in (OFF, ON):
                outcome.interference[system] = await interfere(
                    stub, plan.long_prompt, deployment, speculation=system == ON
                )


@asynccontextmanager
async def _transformers(
    plan: Plan, deployment: Deployment, folder: Path, outcome: Outcome, say: Say
) -> AsyncIterator[dict[str, Asker]]:
    """Its two systems, or none. Started only now: the verifier measured its forward passes without it."""
    if not plan.transformers_dtype:
        yield {}
        return
    say("loading transformers", 0)
    async with TransformersPeer(
        plan.model, plan.transformers_dtype, deployment.tokenizer, deployment.eos_token_ids, folder / "transformers.log"
    ) as peer:
        outcome.facts["transformers"] = {"dtype": plan.transformers_dtype, "threads": peer.threads}
        yield {PLAIN: peer.asker(prompt_lookup=False), LOOKUP: peer.asker(prompt_lookup=True)}


def _verifier_arguments(plan: Plan) -> list[str]:
    most = max(plan.concurrency, default=1)
    sessions = ["--max-sessions", str(most)] if most > SESSIONS else []
    return [*sessions, *plan.verifier_arguments]
