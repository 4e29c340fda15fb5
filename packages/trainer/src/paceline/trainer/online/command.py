"""The `refit` command: a process that keeps one line of revisions good."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import grpc.aio
import structlog

from paceline.trainer.durable import FolderInUse, lock_folder, make_private_folder
from paceline.trainer.online.gate import Gate
from paceline.trainer.online.learner import Learner, Parts
from paceline.trainer.online.lessons import TargetIdentity
from paceline.trainer.online.metrics import show
from paceline.trainer.online.schedule import make_schedule
from paceline.trainer.online.settings import RefitSettings
from paceline.trainer.online.store import Store
from paceline.trainer.online.student import open_student
from paceline.trainer.online.window import Window
from paceline.trainer.online.yielding import give_way
from paceline.trainer.version import VERSION
from paceline.v1 import trainer_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from paceline.wire import logs
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError
from paceline.wire.signature import signer
from paceline.wire.status import from_rpc_error
from paceline.wire.target_tokenizer import fetch_tokenizer, tokenizer_json
from paceline.wire.telemetry import Telemetry
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary
from paceline.wire.waiting import happens

log = structlog.get_logger()

LOOK_AGAIN_S = 2.0
CALL_S = 10.0


def refit(settings: RefitSettings) -> int:
    """Runs until it is told to stop; returns the exit code."""
    logs.configure(settings.log_level, settings.log_json)
    give_way(settings.threads)
    return asyncio.run(_refit(settings))


async def _refit(settings: RefitSettings) -> int:
    telemetry = Telemetry(settings, "refit", VERSION, "paceline-trainer")
    lock = await asyncio.to_thread(_take_folder, settings.work.expanduser())
    sign = signer(settings.sign) if settings.sign is not None else None
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        telemetry.open()
        async with connect(settings.trainer, settings) as to_trainer, connect(settings.verifier, settings) as channel:
            verifier = verifier_pb2_grpc.VerifierStub(channel)
            found = await _target(verifier, stopping)
            if found is None:
                return 0
            identity, target = found
            trainer = trainer_pb2_grpc.TrainerStub(to_trainer)
            folder = settings.work.expanduser() / "revisions"
            store = Store(trainer, settings.line, identity, folder, sign)
            parts = Parts(
                store=store,
                verifier=verifier,
                open_student=lambda folder: open_student(folder, identity, target),
                schedule=make_schedule(settings.schedule, settings.interval_tokens),
                gate=Gate(),
                spans=telemetry.spans,
            )
            learner = Learner(settings, parts, Window(identity, settings.window_tokens))
            show(telemetry.registry, learner)
            log.info("learning", line=settings.line, model=identity.model, schedule=settings.schedule)
            running = asyncio.create_task(learner.run())
            waiting = asyncio.create_task(stopping.wait())
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
            learner.stop()
            waiting.cancel()
            await running
    finally:
        os.close(lock)
        await telemetry.close()
    return 0


def _take_folder(folder: Path) -> int:
    make_private_folder(folder)
    try:
        return lock_folder(folder)
    except FolderInUse as error:
        raise StartupError(f"--work {folder}: another process uses this folder; stop it, or choose another") from error


async def _target(
    verifier: verifier_pb2_grpc.VerifierStub, stopping: asyncio.Event
) -> tuple[TargetIdentity, TokenizerVocabulary] | None:
    """Whose lessons are learned from, as soon as its verifier says so; None if the process is to stop before."""
    complaint = ""
    while not stopping.is_set():
        try:
            model = await verifier.GetModel(verifier_pb2.GetModelRequest(), timeout=CALL_S)
            files = await fetch_tokenizer(verifier, model.tokenizer_hash)
            identity = TargetIdentity(model.model, model.tokenizer_hash, model.vocab_size, model.weights_hash)
            return identity, await asyncio.to_thread(TokenizerVocabulary, tokenizer_json(files))
        except (grpc.aio.AioRpcError, PacelineError) as error:
            refusal = from_rpc_error(error) if isinstance(error, grpc.aio.AioRpcError) else error
            why = refusal.message if refusal is not None else "the verifier does not answer"
            if why != complaint:
                log.warning("waiting for the verifier", why=why)
            complaint = why
        await happens(stopping, LOOK_AGAIN_S)
    return None
