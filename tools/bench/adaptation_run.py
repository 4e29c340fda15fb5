"""One run: traffic that goes from one kind of prompts to the next, drafted for by a drafter that is refitted meanwhile
and by one that stays as it is, a request each in turn."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import grpc
from acceptance_figures import RIGHT_OF, TESTED_OF
from counters import read_counters
from deployment import last_words
from rounds import BenchError

from paceline.cli.measure import Answer, ask, request_for
from paceline.cli.stack import Stack, StackError
from paceline.drafter.version import VERSION as DRAFTER_VERSION
from paceline.trainer.version import VERSION as TRAINER_VERSION
from paceline.v1 import trainer_pb2, trainer_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.revision import MANIFEST, parse_manifest
from paceline.wire.revision_folder import SIGNATURE, seal
from paceline.wire.settings import ClientSettings
from paceline.wire.status import from_rpc_error

ONLINE, FROZEN = "online", "frozen"
LINE = "bench"
START_S = 600.0
CONNECT_S = 120.0
POLL_S = 0.1
CHECKED_EVERY = 10  # requests of which one is asked without speculation too

Say = Callable[[str, int], None]


@dataclass(frozen=True)
class Domain:
    """One kind of prompts: those that are traffic, and those that both drafters are judged on."""

    name: str
    traffic: Sequence[str]
    held_out: Sequence[str]


@dataclass(frozen=True)
class Plan:
    """What is to be measured. The first domain is the one that the revision was made on; the others shift from it.
    `tokens` of traffic are for each."""

    revision: Path
    domains: Sequence[Domain]
    tokens: Sequence[int]
    max_new_tokens: int
    model: str
    bridge: str
    refit_arguments: Sequence[str]
    concurrency: int = 1


@dataclass
class Outcome:
    """What a run leaves behind."""

    probes: list[dict[str, Any]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    failed: int = 0
    same: int = 0
    checked: int = 0
    swaps: int = 0
    complete: bool = False
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)  # of the services


def measure(plan: Plan, folder: Path, say: Say) -> Outcome:
    """Runs the plan; logs go to `folder`. Raises BenchError before anything was measured."""
    outcome = Outcome()
    with Stack(folder) as stack:
        try:
            asyncio.run(_Run(plan, stack, outcome, say).run())
            outcome.complete = True
        except KeyboardInterrupt:
            say("interrupted", 0)
        except (BenchError, StackError, grpc.aio.AioRpcError, OSError) as error:
            outcome.error = last_words(stack.services.values()) or str(error)
            if not outcome.probes:
                raise BenchError(outcome.error) from error
    return outcome


@dataclass
class _Run:
    plan: Plan
    stack: Stack
    outcome: Outcome
    say: Say
    began: float = 0.0
    tokens: int = 0  # of lessons so far

    async def run(self) -> None:
        stack, plan = self.stack, self.plan
        self.say("starting", 0)
        stack.start("trainer", "trainer", "--data", str(stack.folder / "trainer"))
        stack.wait("trainer")
        trainer = stack.services["trainer"].address
        await asyncio.to_thread(self._publish, trainer)
        common = ("--model", plan.model, "--trainer", trainer, "--drafting", "always")
        stack.start("verifier", "verifier", *common, "--metrics-listen", "127.0.0.1:0")
        stack.wait("verifier", timeout_s=START_S)
        verifier = stack.services["verifier"].address
        drafting = ("--strategies", "onnx_lm", "--tree", "chain", "--stopping", "fixed:4", "--bridge", plan.bridge)
        drafting += ("--threads", "1", "--verifiers", verifier)
        cache = ("--revision-cache", str(stack.folder / "cache"))
        stack.start(FROZEN, "drafter", "--name", FROZEN, "--revision", str(plan.revision), *drafting)
        stack.start(ONLINE, "drafter", "--name", ONLINE, "--trainer", trainer, "--line", LINE, *cache, *drafting)
        stack.wait(timeout_s=START_S)
        async with connect(verifier, ClientSettings()) as channel, connect(trainer, ClientSettings()) as to_trainer:
            stub = verifier_pb2_grpc.VerifierStub(channel)
            store = trainer_pb2_grpc.TrainerStub(to_trainer)
            await self._connected(stub)
            model = await stub.GetModel(verifier_pb2.GetModelRequest())
            self.outcome.facts = {"dtype": model.dtype}
            self.outcome.versions = {
                model.peer.package: model.peer.version,
                "paceline-drafter": DRAFTER_VERSION,
                "paceline-trainer": TRAINER_VERSION,
            }
            self._start_refit(trainer, verifier)
            self.began = time.monotonic()
            watching = asyncio.create_task(self._watch(store))
            try:
                for domain, tokens in zip(plan.domains, plan.tokens, strict=True):
                    await self._probe(stub, domain, "start")
                    await self._traffic(stub, domain, tokens)
                    await self._probe(stub, domain, "end")
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
                self._note_refits()

    def _publish(self, trainer: str) -> None:
        done = self.stack.spawn_plain(
            "publish",
            *("-m", "paceline.trainer", "publish", "--trainer", trainer),
            *("--folder", str(_of_line(self.plan.revision, self.stack.folder / "first"))),
        )
        if done.process.wait(60.0):
            raise BenchError(f"the revision can't be published: {done.last_words()}")
        del self.stack.services["publish"]

    def _start_refit(self, trainer: str, verifier: str) -> None:
        self.stack.spawn_plain(
            "refit",
            *("-m", "paceline.trainer", "refit", "--trainer", trainer, "--verifier", verifier, "--line", LINE),
            *("--work", str(self.stack.folder / "refit"), "--log-json", *self.plan.refit_arguments),
        )

    async def _connected(self, stub: verifier_pb2_grpc.VerifierStub) -> None:
        deadline = time.monotonic() + CONNECT_S
        while True:
            model = await stub.GetModel(verifier_pb2.GetModelRequest())
            if {ONLINE, FROZEN} <= {drafter.name for drafter in model.drafters}:
                return
            if words := last_words(self.stack.services.values()):
                raise BenchError(words)
            if time.monotonic() > deadline:
                raise BenchError(f"the drafters did not connect within {CONNECT_S:.0f} s")
            await asyncio.sleep(POLL_S)

    # Asking

    async def _probe(self, stub: verifier_pb2_grpc.VerifierStub, domain: Domain, when: str) -> None:
        """Both drafters on the same held-out prompts."""
        found: dict[str, Any] = {"domain": domain.name, "when": when, "at_s": self._now(), "tokens": self.tokens}
        for name in (FROZEN, ONLINE):
            before = await asyncio.to_thread(read_counters, self.stack.services["verifier"])
            answers = []
            for prompt in domain.held_out:
                answers.append(await self._ask(stub, prompt, name, store=False))
                self.say(f"{domain.name}: {name} on held-out prompts", 0)
            counted = (await asyncio.to_thread(read_counters, self.stack.services["verifier"])).since(before)
            tested = counted.total(TESTED_OF, drafter=name)
            steps = sum(answer.steps for answer in answers if answer)
            tokens = sum(len(answer.ids) - 1 for answer in answers if answer)
            found[name] = {
                "acceptance": round(counted.total(RIGHT_OF, drafter=name) / max(1.0, tested), 4),
                "tokens_per_step": round(tokens / max(1, steps), 4),
                "tested": int(tested),
            }
        self.outcome.probes.append(found)

    async def _traffic(self, stub: verifier_pb2_grpc.VerifierStub, domain: Domain, tokens: int) -> None:
        prompts = _forever(domain.traffic)
        names = itertools.cycle((ONLINE, FROZEN))
        until = self.tokens + tokens

        async def client() -> None:
            while self.tokens < until:
                await self._request(stub, domain, next(prompts), next(names))

        await asyncio.gather(*(client() for _ in range(self.plan.concurrency)))

    async def _request(self, stub: verifier_pb2_grpc.VerifierStub, domain: Domain, prompt: str, name: str) -> None:
        began = self._now()
        answer = await self._ask(stub, prompt, name, store=True)
        if answer is None:
            return
        self.tokens += len(answer.ids)
        self.outcome.requests.append(
            {
                "domain": domain.name,
                "drafter": name,
                "at_s": began,
                "seconds": round(answer.seconds, 4),
                "tokens": len(answer.ids),
                "steps": answer.steps,
                "accepted": answer.drafters.get(name, (0, 0))[1],
                "lessons": self.tokens,
            }
        )
        self.say(f"{domain.name}: {self.tokens} tokens", len(answer.ids))
        if len(self.outcome.requests) % CHECKED_EVERY == 0:
            plain = await self._ask(stub, prompt, "", store=False)
            self.outcome.checked += 1
            self.outcome.same += plain is not None and plain.ids == answer.ids

    async def _ask(
        self, stub: verifier_pb2_grpc.VerifierStub, prompt: str, drafter: str, *, store: bool
    ) -> Answer | None:
        request = request_for(
            [("user", prompt)],
            max_tokens=self.plan.max_new_tokens,
            speculation=bool(drafter),
            drafters=(drafter,) if drafter else (),
        )
        request.no_store = not store
        try:
            return await ask(stub, request)
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            if words := last_words([self.stack.services["verifier"]]):
                raise BenchError(words) from error
            self.outcome.failed += 1
            self.say(f"failed: {refusal.message if refusal else error.code().name}", 0)
            return None

    # What happens meanwhile

    def _now(self) -> float:
        return round(time.monotonic() - self.began, 3) if self.began else 0.0

    async def _watch(self, store: trainer_pb2_grpc.TrainerStub) -> None:
        """Notes each revision that comes after the first."""
        async for response in store.WatchRevisions(trainer_pb2.WatchRevisionsRequest(drafter=LINE)):
            revision = response.revision
            if revision.manifest.parent:
                self.outcome.swaps += 1
                metrics = dict(revision.manifest.metrics)
                self.outcome.events.append(
                    {"what": "published", "at_s": self._now(), "tokens": self.tokens, "metrics": metrics}
                )

    def _note_refits(self) -> None:
        """When refits began and ended, from the learner's own log."""
        offset = time.time() - time.monotonic() + self.began
        for line in self.stack.services["refit"].log.read_text(errors="replace").splitlines():
            try:
                entry = json.loads(line)
                what = {"refit begins": "refit", "refit judged": "judged"}.get(entry.get("event", ""))
                if what:
                    self.outcome.events.append(
                        {"what": what, "at_s": round(_unix_s(entry["timestamp"]) - offset, 3), "why": entry.get("why")}
                    )
            except (ValueError, KeyError):
                continue


def _unix_s(timestamp: str) -> float:
    return datetime.fromisoformat(timestamp.replace("Z", "+00:00")).timestamp()


def _of_line(revision: Path, out: Path) -> Path:
    """The same files under the bench's own line: a manifest says which line it belongs to."""
    shutil.copytree(revision, out, ignore=shutil.ignore_patterns(SIGNATURE))
    manifest = parse_manifest((revision / MANIFEST).read_bytes())
    manifest.drafter = LINE
    manifest.parent = ""
    seal(out, manifest)
    return out


def _forever(prompts: Sequence[str]) -> Iterator[str]:
    return itertools.cycle(prompts)
