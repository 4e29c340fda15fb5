"""paceline-verifier: hosts a target model."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import time
from dataclasses import replace
from functools import partial

import structlog
import torch

from paceline.v1 import router_pb2, verifier_pb2_grpc
from paceline.verifier import cost
from paceline.verifier.convert import Limits, work_to_proto
from paceline.verifier.cost import ForwardCost
from paceline.verifier.engine import Engine, EngineLimits
from paceline.verifier.grammar.compiler import Compiler
from paceline.verifier.lessons import Lessons
from paceline.verifier.memory import free_memory, give_back
from paceline.verifier.metrics import Metrics, show_lessons
from paceline.verifier.model.batch import SessionPlan, StepPlan
from paceline.verifier.model.blocks import BLOCK_TOKENS
from paceline.verifier.model.engines import Opened, open_target
from paceline.verifier.model.exactness import disagreement, probe
from paceline.verifier.model.parallel import Leader, obey
from paceline.verifier.model.ranks import ALONE, LEADER, Place, Ranks, place_in
from paceline.verifier.model.runner import Runner
from paceline.verifier.model.target import Target, Wanted, resolve_device
from paceline.verifier.pacing import NoPacing, Pacing
from paceline.verifier.sampling import Sampler, Sampling
from paceline.verifier.service import Loaded, VerifierService, VerifierState
from paceline.verifier.settings import VerifierSettings
from paceline.verifier.shadow_book import ShadowBook
from paceline.verifier.shadow_scorer import ShadowScorer
from paceline.verifier.step_times import Regardless, StepTimes
from paceline.verifier.version import VERSION
from paceline.verifier.vllm_metrics import VllmMetrics
from paceline.wire import logs
from paceline.wire.membership import Membership
from paceline.wire.server import Server, run
from paceline.wire.settings import Command, StartupError, run_commands
from paceline.wire.telemetry import Telemetry
from paceline.wire.version import make_peer

log = structlog.get_logger()

SERVICE = "paceline.v1.Verifier"
LESSON_TOP_K = 8
MAX_TREE_ROWS = 64
NO_TRAINER = "none"
FEATURE_SHARE = 8  # of the key-value cache's memory: three layers' states are a sixth of a position's keys and values
MAX_FEATURE_BYTES = 1 << 30
MAX_DISAGREEMENT = 0.25  # of the logits' spread, between our attention and transformers' own


class Verifier:
    """The process: loads the model, keeps the routers told, and ends in order."""

    def __init__(self, settings: VerifierSettings, place: Place = ALONE) -> None:
        self.settings = settings
        self._place = place
        self._ranks: Ranks | None = None
        self._started_s = time.monotonic()
        self.state = VerifierState(settings, settings.verifier_id or f"verifier-{secrets.token_hex(4)}")
        self.server = Server(settings, [SERVICE])
        self.telemetry = Telemetry(settings, "verifier", VERSION)
        self.state.spans = self.telemetry.spans
        self._metrics = Metrics(self.telemetry.registry)
        self._trainers: list[str] = []
        self._shadows: ShadowScorer | None = None
        self._membership: Membership | None = None
        self._renewal: asyncio.Task[None] | None = None
        verifier_pb2_grpc.add_VerifierServicer_to_server(VerifierService(self.state), self.server.grpc)

    async def start(self) -> None:
        settings, state = self.settings, self.state
        self.telemetry.open()
        if self.telemetry.address:
            self.server.other_addresses["metrics"] = self.telemetry.address
        self._ranks = await asyncio.to_thread(join, settings, self._place)
        opened = await load(settings, self._place)
        if self._ranks is not None:
            opened = replace(opened, runner=Leader(opened.runner, self._ranks))
        forward_cost = await asyncio.to_thread(prepare, opened, settings)
        target, runner = opened.target, opened.runner
        name = settings.model_name or settings.model.removeprefix("package:").rstrip("/").rpartition("/")[2]
        lessons = Lessons(
            name,
            target.tokenizer.content_hash,
            LESSON_TOP_K,
            settings,
            self._trainer,
            state.hub.distrusted,
            target.weights_hash,
        )
        engine_limits = EngineLimits(
            settings.max_sessions,
            settings.max_queue,
            settings.max_nodes,
            settings.max_step_nodes,
            min(runner.pool.num_blocks * runner.block_bytes // FEATURE_SHARE, MAX_FEATURE_BYTES),
        )
        always = settings.drafting == "always"
        times = Regardless(forward_cost) if always else StepTimes(forward_cost)
        pacing = NoPacing() if always else Pacing(forward_cost.seconds)
        book = ShadowBook(state.hub.shadow_top_k)
        scores = book if settings.shadow_share else None
        engine = Engine(runner, times, state.hub, engine_limits, lessons, self._metrics, pacing, scores)
        limits = Limits(
            vocab_size=runner.vocab_size,
            context_length=min(target.context_length, runner.pool.num_blocks * BLOCK_TOKENS - runner.max_session_rows),
            max_tokens=settings.max_tokens,
            default_max_tokens=settings.default_max_tokens,
            max_nodes=settings.max_nodes,
        )
        self._show(opened, name, lessons)
        engine.start()
        lessons.start()
        if scores is not None:
            new_id = partial(next, state.session_ids)
            self._shadows = ShadowScorer(engine, state.hub, book, state.memory_key, new_id, settings.shadow_share)
            self._shadows.start()
        compiler = Compiler(target.tokenizer.contents, runner.vocab_size, target.eos_token_ids)
        state.loaded = Loaded(target, name, engine, lessons, book, limits, compiler)
        if settings.router:
            self._membership = Membership(settings.router.split(","), settings, self._describe, self._on_roster)
            self._membership.start()
            self._renewal = asyncio.create_task(self._renew_on_change(self._membership))

    def _show(self, opened: Opened, name: str, lessons: Lessons) -> None:
        """What there is to see once the model is there."""
        metrics, target = self._metrics, opened.target
        metrics.loaded(name, opened.engine, target.dtype, target.device)
        metrics.drafts.show(self.state.hub)
        show_lessons(metrics.registry, lessons)
        if self.settings.vllm_metrics:
            metrics.registry.register(VllmMetrics(metrics, name))

    def _trainer(self) -> str:
        if self.settings.trainer:
            return "" if self.settings.trainer == NO_TRAINER else self.settings.trainer
        return self._trainers[0] if self._trainers else ""

    def _on_roster(self, members: list[router_pb2.Member]) -> None:
        self._trainers = sorted(member.address for member in members if member.role == router_pb2.ROLE_TRAINER)

    async def _renew_on_change(self, membership: Membership) -> None:
        while True:
            await self.state.changed.wait()
            self.state.changed.clear()
            membership.renew_now()

    def _describe(self) -> router_pb2.Member:
        loaded = self.state.ready()
        engine = loaded.engine
        clock_s = time.monotonic() - self._started_s
        return router_pb2.Member(
            id=self.state.verifier_id,
            role=router_pb2.ROLE_VERIFIER,
            name=self.state.verifier_id,
            address=self.server.advertised,
            model=loaded.name,
            tokenizer_hash=loaded.target.tokenizer.content_hash,
            load=engine.num_running + engine.num_queued,
            capacity=self.settings.max_sessions,
            draining=self.state.draining,
            connected=self.state.hub.announced(),
            peer=make_peer("paceline-verifier", VERSION),
            work=work_to_proto(engine.work, clock_s, engine.num_running, engine.num_queued),
        )

    async def drain(self) -> None:
        """No new requests; running ones get `drain_s`; then the drafters' streams end."""
        self.state.draining = True
        self.state.changed.set()
        deadline = time.monotonic() + self.settings.drain_s
        while self.state.by_request and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if self.state.loaded is not None:
            await self.state.loaded.engine.stop()  # what still runs is told to go on elsewhere
        for link in list(self.state.hub.links.values()):
            link.shut()

    async def close(self) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        if self._membership is not None:
            await self._membership.leave()
        if self._shadows is not None:
            await self._shadows.stop()
        if self.state.loaded is not None:
            await self.state.loaded.lessons.stop()
            await self.state.loaded.engine.stop()
        if self._ranks is not None:
            await asyncio.to_thread(self._ranks.leave)
        await self.telemetry.close()


def join(settings: VerifierSettings, place: Place) -> Ranks | None:
    """Meets the other processes of this model, if there are any. Raises StartupError."""
    return Ranks(place, resolve_device(settings.device, place)) if place.size > 1 else None


async def load(settings: VerifierSettings, place: Place) -> Opened:
    """The model, or this process's share of it, in an engine. Raises StartupError."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    started = time.perf_counter()
    wanted = Wanted(settings.model, settings.device, settings.dtype, settings.context_length, place)
    opened = await open_target(wanted, settings.engine)
    seconds = round(time.perf_counter() - started, 1)
    log.info("model loaded", model=settings.model, seconds=seconds, dtype=opened.target.dtype)
    return opened


def prepare(opened: Opened, settings: VerifierSettings) -> ForwardCost:
    """Checks the model against transformers, measures it, probes its exactness. Raises StartupError."""
    started = time.perf_counter()
    target, runner = opened.target, opened.runner
    _ = target.tokenizer.content_hash  # computed now, so that no request waits for it
    allocate_cache(runner, target, settings)
    apart = disagreement(runner, opened.reference)
    if not apart <= MAX_DISAGREEMENT:
        raise StartupError(
            f"--model {settings.model}: {target.architecture} attends in a way that verifying trees does not reproduce "
            f"(its logits are {apart:.2g} of their spread away from transformers' own); choose another model"
        )
    forward_cost = measure_runner(runner)
    worst = probe(runner)
    if worst == 0.0:
        log.info("exactness probe: logits don't depend on the step's shape", max_difference=worst)
    else:
        log.warning(
            "exactness probe: on this machine or model the step's shape changes logits a little, so text with and "
            "without speculation can differ where two tokens are nearly tied",
            max_difference=worst,
        )
    milliseconds = {
        rows: round(seconds * 1e3, 1) for rows, seconds in zip(forward_cost.rows, forward_cost.knots, strict=True)
    }
    give_back()
    log.info("forward pass measured", ms_by_rows=milliseconds, seconds=round(time.perf_counter() - started, 1))
    return forward_cost


def allocate_cache(runner: Runner, target: Target, settings: VerifierSettings) -> None:
    """Makes the cache as large as --kv-memory-mb says. Raises StartupError if not even one request would fit."""
    useful = settings.max_sessions * (target.context_length + runner.max_session_rows) * runner.block_bytes
    least = 2 * (runner.max_session_rows // BLOCK_TOKENS + 1)  # two sessions' rows with some context: for the probe
    if settings.kv_memory_mb:
        limit = settings.kv_memory_mb << 20
    else:
        enough = max(useful // BLOCK_TOKENS + runner.block_bytes, least * runner.block_bytes)
        limit = min(free_memory(target.device) // 4, enough)
    num_blocks = limit // runner.block_bytes
    if num_blocks < least:
        raise StartupError(
            f"--kv-memory-mb: {limit >> 20} MiB hold {num_blocks * BLOCK_TOKENS} tokens of this model; it takes "
            f"{least * runner.block_bytes >> 20} MiB or more"
        )
    try:
        runner.allocate(num_blocks, target.context_length)
    except MemoryError as error:
        raise StartupError(f"--kv-memory-mb: {error}") from error
    log.info("key-value cache", tokens=num_blocks * BLOCK_TOKENS, mib=num_blocks * runner.block_bytes >> 20)


def measure_runner(runner: Runner) -> ForwardCost:
    """Times steps of one session, if it may have so many rows, with a short context, by their number of rows."""
    sampler = Sampler(Sampling())
    most = runner.max_session_rows
    slots = [runner.new_slot(64) for _ in range(0, cost.ROW_COUNTS[-1], most)]
    context = tuple(range(32))
    runner.step(StepPlan(tuple(SessionPlan(slot, context, False, (), (), sampler) for slot in slots)))

    def timed(rows: int) -> float:
        """Up to MAX_TREE_ROWS a tree, whose every row has logits; above it a prompt, or as many as it takes."""
        if rows <= MAX_TREE_ROWS:
            tree = tuple(range(rows - 1))
            plans = [SessionPlan(slots[0], (0,), True, tree, tuple(index - 1 for index in tree), sampler)]
        else:
            chains = [tuple(range(first, min(first + most, rows))) for first in range(0, rows, most)]
            plans = [SessionPlan(slot, chain, True, (), (), sampler) for slot, chain in zip(slots, chains, strict=True)]
        seconds = runner.step(StepPlan(tuple(plans))).seconds
        for slot in slots:
            slot.length = len(context)
        return seconds

    timed(cost.ROW_COUNTS[-1])  # the first of a kind is slower
    forward_cost = cost.measure(timed)
    for slot in slots:
        runner.pool.close(slot)
    return forward_cost


def follow(settings: VerifierSettings, place: Place) -> int:
    """Life of a process of rank 1 or higher: computes its share of what rank 0 serves, and ends when that does."""
    ranks = join(settings, place)
    assert ranks is not None
    for number in (signal.SIGTERM, signal.SIGINT):  # they are for rank 0, which lets running requests finish
        signal.signal(number, signal.SIG_IGN)
    try:
        runner = asyncio.run(load(settings, place)).runner
        give_back()
        obey(runner, ranks)
    finally:
        ranks.leave()
    return 0


def serve(settings: VerifierSettings) -> int:
    logs.configure(settings.log_level, settings.log_json)
    place = place_in(os.environ)
    if place.rank != LEADER:
        return follow(settings, place)

    async def life() -> int:
        verifier = Verifier(settings, place)
        return await run(verifier.server, verifier.start, verifier.drain, verifier.close)

    return asyncio.run(life())


COMMANDS = {"serve": Command("host a target model", VerifierSettings, serve)}


def main() -> int:
    return run_commands("paceline-verifier", VERSION, COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
