"""One run: a verifier, and one mix of drafter processes after another at work for it on the same questions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from acceptance_figures import mix_figures
from bridges import Texts, collect_texts
from comparison import WARM_UP, WARM_UP_TOKENS
from counters import read_counters
from deployment import asker, fetch_tokenizer, last_words
from figures import OFF, ON, Measurement
from machine import describe_machine, versions
from mixes import Mix
from questions import Question
from rounds import Asker, BenchError, Rounds

from paceline.cli.stack import Service, Stack, StackError
from paceline.drafter.version import VERSION
from paceline.v1 import verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

START_S = 600.0  # a verifier, or a drafter, may have a large model to load
CONNECT_S = 180.0  # more than a drafter takes that is ready, on a busy machine
POLL_S = 0.05

Say = Callable[[str, int], None]  # what happens now, and how many answers came since the last call


@dataclass(frozen=True)
class Plan:
    """What is to be measured. `bridge_tokens` 0 collects no texts for vocabulary bridges."""

    questions: Sequence[Question]
    mixes: Sequence[Mix]
    model: str
    dtype: str
    max_new_tokens: int
    temperature: float
    seed: int
    memory: bool
    drafting: str
    verifier_arguments: Sequence[str]
    bridge_questions: Sequence[Question] = ()
    bridge_tokens: int = 0

    @property
    def answers(self) -> int:
        """How many answers the run comes to."""
        return sum(len(question.turns) for question in self.questions) * (1 + len(self.mixes))


@dataclass
class Outcome:
    """What a run leaves behind: figures of each mix that was finished. One that ended early is not complete."""

    mixes: dict[str, dict[str, Any]] = field(default_factory=dict)
    texts: Texts | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    complete: bool = False
    error: str = ""


def measure_mixes(plan: Plan, folder: Path, say: Say) -> Outcome:
    """Runs the plan; logs go to `folder`. Ctrl-C or a late error ends it early and keeps the mixes that are finished.

    Raises:
        BenchError: before the first mix was finished.
    """
    outcome = Outcome()
    with Stack(folder) as stack:
        try:
            say(f"loading {plan.model}", 0)
            arguments = ("--dtype", plan.dtype, "--drafting", plan.drafting, "--trainer", "none")
            metrics = ("--metrics-listen", "127.0.0.1:0")
            stack.start("verifier", "verifier", "--model", plan.model, *arguments, *metrics, *plan.verifier_arguments)
            stack.wait("verifier", timeout_s=START_S)
            asyncio.run(_measure(plan, stack, outcome, say))
            outcome.complete = True
        except KeyboardInterrupt:
            say("interrupted", 0)
        except (BenchError, StackError, grpc.aio.AioRpcError) as error:
            outcome.error = last_words(stack.services.values()) or str(error)
            if not outcome.mixes:
                raise BenchError(outcome.error) from error
    return outcome


async def _measure(plan: Plan, stack: Stack, outcome: Outcome, say: Say) -> None:
    async with connect(stack.services["verifier"].address, ClientSettings()) as channel:
        stub = verifier_pb2_grpc.VerifierStub(channel)
        model = await stub.GetModel(verifier_pb2.GetModelRequest())
        outcome.facts = {
            "dtype": model.dtype,
            "machine": describe_machine(),
            "versions": versions({model.peer.package: model.peer.version, "paceline-drafter": VERSION}),
        }
        ask = asker(stub, speculation=False, remember=plan.memory, temperature=plan.temperature, seed=plan.seed)
        plain = Rounds(plan.questions, {OFF: ask}, plan.max_new_tokens, lambda what: say(what, 1))
        say("answering without speculation", 0)
        await plain.alternate(0)
        comparison = _Comparison(plan, stack, stub, plain, outcome.warnings, say)
        for mix in plan.mixes:
            say(f"{mix.name}: starting", 0)
            outcome.mixes[mix.name] = await comparison.measure(mix)
        if plan.bridge_tokens:
            greedy = asker(stub, speculation=False, remember=False)
            tokenizer = await asyncio.to_thread(_tokenizer_json, stack)
            outcome.texts = await collect_texts(
                greedy,
                plan.bridge_questions,
                plan.bridge_tokens,
                frozenset(model.eos_token_ids),
                tokenizer,
                lambda what: say(what, 0),
            )


@dataclass(frozen=True)
class _Comparison:
    """Measures mixes against the answers without speculation, which `plain` has."""

    plan: Plan
    stack: Stack
    stub: verifier_pb2_grpc.VerifierStub
    plain: Rounds
    warnings: list[str]
    say: Say

    async def measure(self, mix: Mix) -> dict[str, Any]:
        """The figures of a mix, which is started and ended."""
        plan, verifier = self.plan, self.stack.services["verifier"]
        async with self._at_work(mix) as services:
            ask = asker(
                self.stub,
                speculation=True,
                remember=plan.memory,
                temperature=plan.temperature,
                seed=plan.seed,
                drafters=[drafter.name for drafter in mix.drafters],
            )
            await ask(WARM_UP, min(WARM_UP_TOKENS, plan.max_new_tokens), "warm-up")
            before = await asyncio.to_thread(read_counters, verifier)
            answers = await self._answers(mix, ask, services)
            counted = (await asyncio.to_thread(read_counters, verifier)).since(before)
            for drafter in (await self.stub.GetModel(verifier_pb2.GetModelRequest())).drafters:
                if drafter.quarantined:
                    self.warnings.append(
                        f"{mix.name}: the verifier quarantined {drafter.name}; its figures are too low"
                    )
        return mix_figures(counted, [*self.plain.measured, *answers])

    async def _answers(self, mix: Mix, ask: Asker, services: Sequence[Service]) -> list[Measurement]:
        """To each question's turns, with the prompts that were asked without speculation."""
        answers: list[Measurement] = []
        for asked in self.plain.measured:
            prompt = self.plain.prompts[asked.answer]
            try:
                # A tenant for each: a prompt that the cache remembers would be read without hidden states for heads.
                reply = await ask(prompt, self.plan.max_new_tokens, f"acceptance-{mix.name}")
            except BenchError as error:
                why = last_words(services) or str(error)
                raise BenchError(f"{mix.name}, question {asked.question_id}, turn {asked.turn + 1}: {why}") from error
            if words := last_words(services):
                raise BenchError(f"{mix.name}: {words}")
            self.say(f"{mix.name}: {asked.group} {asked.question_id}", 1)
            answers.append(replace(asked, system=ON, ids=reply.ids, seconds=reply.seconds, steps=reply.steps))
        return answers

    @asynccontextmanager
    async def _at_work(self, mix: Mix) -> AsyncIterator[list[Service]]:
        """The mix's processes, connected; they are gone afterwards."""
        address = self.stack.services["verifier"].address
        services = [
            self.stack.start(drafter.name, "drafter", *drafter.arguments, "--verifiers", address)
            for drafter in mix.drafters
        ]
        try:
            await self._connected([drafter.name for drafter in mix.drafters], services)
            yield services
        except StackError as error:
            raise BenchError(f"{mix.name}: {last_words(services) or error}") from error
        finally:
            for service in services:
                service.process.terminate()
            for service in services:
                service.terminate()
                del self.stack.services[service.name]
        await self._connected([], [])

    async def _connected(self, names: Sequence[str], services: Sequence[Service]) -> None:
        """Until these processes serve and exactly these drafters are connected; StackError if one ends instead."""

        async def joined() -> bool:
            if words := last_words(services):
                raise StackError(words)
            model = await self.stub.GetModel(verifier_pb2.GetModelRequest())
            return sorted(drafter.name for drafter in model.drafters) == sorted(names)

        await _until(lambda: _served(services), START_S, f"drafters {names} are not ready")
        await _until(joined, CONNECT_S, f"drafters {names} are ready and not connected")


async def _served(services: Sequence[Service]) -> bool:
    return all(service.poll_ready() for service in services)


async def _until(holds: Callable[[], Awaitable[bool]], timeout_s: float, otherwise: str) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            while not await holds():
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise StackError(f"{otherwise} after {timeout_s:.0f} s; --log-level=debug as an option shows more") from None


def _tokenizer_json(stack: Stack) -> str:
    """The target's, as the verifier hands it out."""
    with grpc.insecure_channel(stack.services["verifier"].address) as channel:
        folder = fetch_tokenizer(verifier_pb2_grpc.VerifierStub(channel), stack.folder / "tokenizer")
    return (folder / "tokenizer.json").read_text(encoding="utf-8")
