"""The service over real sockets, and as a real process that gets killed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from rich.progress import Progress

from paceline.trainer.remote import receive
from paceline.trainer.replay import ReplayBuffer
from paceline.trainer.revisions import RevisionStore
from paceline.trainer.service import TrainerService
from paceline.v1 import trainer_pb2, trainer_pb2_grpc, types_pb2
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision import revision_id
from paceline.wire.server import Server
from paceline.wire.settings import ClientSettings, ServiceSettings
from paceline.wire.status import from_rpc_error

Files = dict[str, bytes]
TIMEOUT_S = 20.0


def lesson(number: int, **changes: object) -> trainer_pb2.Lesson:
    fields: dict[str, object] = {
        "lesson_id": number.to_bytes(16, "big"),
        "context": [1, 2, 3],
        "tokens": [4, 5],
        "accepted": [True, False],
        "top_k": 2,
        "top_k_ids": [4, 1, 5, 2],
        "top_k_log_probs": [-0.1, -2.5, -0.2, -3.0],
        "temperature": 0.5,
    }
    return trainer_pb2.Lesson(**{**fields, **changes})  # type: ignore[arg-type]


def manifest_for(files: Files, **fields: str) -> trainer_pb2.RevisionManifest:
    return trainer_pb2.RevisionManifest(
        **{"drafter": "tiny", **fields},
        files=[
            types_pb2.FileInfo(path=path, size=len(data), sha256=hashlib.sha256(data).digest())
            for path, data in files.items()
        ],
    )


async def publish(
    stub: trainer_pb2_grpc.TrainerStub, manifest: trainer_pb2.RevisionManifest, content: bytes, chunk: int = 1000
) -> trainer_pb2.Revision:
    async def parts() -> AsyncIterator[trainer_pb2.PublishRevisionRequest]:
        yield trainer_pb2.PublishRevisionRequest(manifest=manifest)
        for start in range(0, len(content), chunk):
            yield trainer_pb2.PublishRevisionRequest(chunk=content[start : start + chunk])

    return (await stub.PublishRevision(parts(), timeout=TIMEOUT_S)).revision


async def publish_files(stub: trainer_pb2_grpc.TrainerStub, files: Files, **fields: str) -> trainer_pb2.Revision:
    return await publish(stub, manifest_for(files, **fields), b"".join(files.values()))


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[trainer_pb2_grpc.TrainerStub, TrainerService]]:
    replay = ReplayBuffer(folder / "replay", 1 << 24)
    service = TrainerService(replay, RevisionStore(folder / "revisions"))
    server = Server(ServiceSettings(), ["paceline.v1.Trainer"])
    trainer_pb2_grpc.add_TrainerServicer_to_server(service, server.grpc)
    await server.bind()
    try:
        async with connect(server.address, ClientSettings()) as channel:
            yield trainer_pb2_grpc.TrainerStub(channel), service
    finally:
        await server.grpc.stop(None)
        replay.close()


async def refusal_of(call: object) -> PacelineError:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call  # type: ignore[misc]
    refusal = from_rpc_error(error.value)
    assert refusal is not None, error.value
    return refusal


async def test_submit_counts_new_and_duplicate_lessons(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        first = await stub.Submit(trainer_pb2.SubmitRequest(lessons=[lesson(1), lesson(2)]))
        again = await stub.Submit(trainer_pb2.SubmitRequest(lessons=[lesson(2), lesson(3)]))
        replay = await stub.GetReplay(trainer_pb2.GetReplayRequest())
    assert (first.stored, first.duplicates, again.stored, again.duplicates) == (2, 0, 1, 1)
    assert (replay.lessons, replay.tokens) == (3, 6)


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"lesson_id": b"short"}, Reason.MALFORMED, "lesson_id"),
        ({"tokens": [], "accepted": [], "top_k": 0}, Reason.OUT_OF_RANGE, "tokens"),
        ({"tokens": [1] * 4097}, Reason.OUT_OF_RANGE, "tokens"),
        ({"context": [1] * 32_769}, Reason.OUT_OF_RANGE, "context"),
        ({"accepted": [True]}, Reason.MALFORMED, "accepted"),
        ({"top_k": 65}, Reason.OUT_OF_RANGE, "top_k"),
        ({"top_k_ids": [1]}, Reason.MALFORMED, "top_k_ids"),
        ({"top_k_log_probs": [-1.0, -1.0, -1.0, 0.5]}, Reason.MALFORMED, "top_k_log_probs"),
        ({"top_k_log_probs": [-1.0, -1.0, -1.0, float("nan")]}, Reason.MALFORMED, "top_k_log_probs"),
        ({"temperature": -1.0}, Reason.OUT_OF_RANGE, "temperature"),
        ({"tenant": "x" * 201}, Reason.OUT_OF_RANGE, "tenant"),
        ({"drafter_ids": ["x"] * 65}, Reason.OUT_OF_RANGE, "drafter_ids"),
    ],
)
async def test_a_bad_lesson_is_refused_by_name_and_nothing_is_stored(
    tmp_path: Path, changes: dict[str, object], reason: Reason, field: str
) -> None:
    async with serving(tmp_path) as (stub, _):
        request = trainer_pb2.SubmitRequest(lessons=[lesson(1), lesson(2, **changes)])
        refusal = await refusal_of(stub.Submit(request))
        assert (refusal.reason, refusal.field) == (reason, f"lessons[1].{field}")
        assert (await stub.GetReplay(trainer_pb2.GetReplayRequest())).lessons == 0


async def test_too_many_lessons_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        request = trainer_pb2.SubmitRequest(lessons=[lesson(number) for number in range(257)])
        assert (await refusal_of(stub.Submit(request))).reason is Reason.OUT_OF_RANGE


async def test_a_fetched_revision_is_identical_to_the_byte(tmp_path: Path) -> None:
    files = {"a/model.bin": random.Random(1).randbytes(700_001), "config.json": b"{}", "empty": b""}
    async with serving(tmp_path / "store") as (stub, _):
        revision = await publish_files(stub, files, model="m")
        assert revision.revision_id == revision_id(manifest_for(files, model="m"))
        with Progress(disable=True) as progress:
            await receive(stub, revision.revision_id, tmp_path / "out", progress)
    fetched = {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes()
        for path in (tmp_path / "out").rglob("*")
        if path.is_file()
    }
    assert fetched == files


async def test_publishing_the_same_again_gives_the_same_revision(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        first = await publish_files(stub, {"f": b"x"})
        again = await publish_files(stub, {"f": b"x"})
    assert first == again
    assert len(list((tmp_path / "revisions").iterdir())) == 1


async def test_revisions_survive_a_restart_and_list_newest_first_in_pages(tmp_path: Path) -> None:
    names = []
    async with serving(tmp_path) as (stub, _):
        for number in range(5):
            names.append((await publish_files(stub, {"f": bytes([number])})).revision_id)
        other = await publish_files(stub, {"f": b"other"}, drafter="other", parent=names[0])
    async with serving(tmp_path) as (stub, _):
        listed: list[str] = []
        token = ""
        while True:
            request = trainer_pb2.ListRevisionsRequest(drafter="tiny", page_size=2, page_token=token)
            page = await stub.ListRevisions(request)
            assert len(page.revisions) <= 2
            listed += [revision.revision_id for revision in page.revisions]
            token = page.next_page_token
            if not token:
                break
            await publish_files(stub, {"f": f"between {token}".encode()})
        assert listed == names[::-1]
        everything = await stub.ListRevisions(trainer_pb2.ListRevisionsRequest())
        assert other.revision_id in [revision.revision_id for revision in everything.revisions]


@pytest.mark.parametrize(
    "path", ["../evil", "/etc/passwd", "a/../../b", "", ".", "a//b", "a\\b", "nul\0", "record.json", "x" * 201]
)
async def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path / "store") as (stub, _):
        refusal = await refusal_of(publish_files(stub, {path: b"data"}))
        assert refusal.reason is Reason.MALFORMED
    assert not any(item.is_file() for item in (tmp_path / "store" / "revisions").rglob("*"))


async def test_what_does_not_match_its_manifest_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    manifest = manifest_for({"f": b"right"})
    async with serving(tmp_path) as (stub, _):
        assert (await refusal_of(publish(stub, manifest, b"wrong"))).reason is Reason.HASH_MISMATCH
        assert (await refusal_of(publish(stub, manifest, b"righ"))).reason is Reason.MALFORMED
        assert (await refusal_of(publish(stub, manifest, b"right and more"))).reason is Reason.MALFORMED
        unknown_parent = manifest_for({"f": b"right"}, parent="0" * 64)
        assert (await refusal_of(publish(stub, unknown_parent, b"right"))).reason is Reason.UNKNOWN_REVISION
        twice = manifest_for({"f": b"a", "F": b"b"})
        assert (await refusal_of(publish(stub, twice, b"ab"))).reason is Reason.MALFORMED
        assert not list((await stub.ListRevisions(trainer_pb2.ListRevisionsRequest())).revisions)
    assert list((tmp_path / "revisions").iterdir()) == []


async def test_a_damaged_file_is_noticed_when_it_is_fetched(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        revision = await publish_files(stub, {"f": b"precious"})
        (tmp_path / "revisions" / revision.revision_id / "f").write_bytes(b"precioux")
        call = stub.FetchRevision(trainer_pb2.FetchRevisionRequest(revision_id=revision.revision_id))

        async def read_all() -> None:
            async for _ in call:
                pass

        assert (await refusal_of(read_all())).reason is Reason.HASH_MISMATCH


async def test_an_unknown_revision_is_said_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        call = stub.FetchRevision(trainer_pb2.FetchRevisionRequest(revision_id="../../etc"))
        assert (await refusal_of(anext(aiter(call)))).reason is Reason.UNKNOWN_REVISION


async def test_watchers_hear_the_newest_then_each_later_one_of_their_line(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, service):
        await publish_files(stub, {"f": b"0"})
        newest = await publish_files(stub, {"f": b"1"})
        call = stub.WatchRevisions(trainer_pb2.WatchRevisionsRequest(drafter="tiny"), timeout=TIMEOUT_S)
        assert (await call.read()).revision.revision_id == newest.revision_id
        await publish_files(stub, {"f": b"2"}, drafter="other")
        later = await publish_files(stub, {"f": b"3"})
        assert (await call.read()).revision.revision_id == later.revision_id
        call.cancel()
        async with asyncio.timeout(TIMEOUT_S):
            while len(service.watchers):
                await asyncio.sleep(0.01)


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A real trainer; yields it and its address."""
    ready = folder / "ready"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "paceline.trainer", "serve", "--listen", "127.0.0.1:0"]
    command += ["--data", str(folder / "data"), "--ready-file", str(ready), *arguments]
    running = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not ready.exists():
            assert running.poll() is None, running.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield running, json.loads(ready.read_text())["address"]
    finally:
        running.kill()
        running.communicate()


def test_a_lesson_survives_sigkill_right_after_the_answer(tmp_path: Path) -> None:
    for number in range(3):
        with process(tmp_path) as (trainer, address), grpc.insecure_channel(address) as channel:
            stub = trainer_pb2_grpc.TrainerStub(channel)
            assert stub.Submit(trainer_pb2.SubmitRequest(lessons=[lesson(number)])).stored == 1
            os.kill(trainer.pid, signal.SIGKILL)
    with process(tmp_path) as (_, address), grpc.insecure_channel(address) as channel:
        assert trainer_pb2_grpc.TrainerStub(channel).GetReplay(trainer_pb2.GetReplayRequest()).lessons == 3
    buffer = ReplayBuffer(tmp_path / "data" / "replay", 1 << 24)
    assert [trainer_pb2.Lesson.FromString(item.payload) for item in buffer.lessons()] == [lesson(n) for n in range(3)]


def test_sigkill_during_a_publish_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    rng = random.Random(5)
    outcomes = set()
    for attempt in range(8):
        content = rng.randbytes(3_000_000)
        manifest = manifest_for({"weights": content, "tail": b"end"})
        with process(tmp_path) as (trainer, address):

            async def publish_and_kill(
                address: str = address,
                trainer: subprocess.Popen[bytes] = trainer,
                manifest: trainer_pb2.RevisionManifest = manifest,
                content: bytes = content,
                attempt: int = attempt,
            ) -> None:
                async with connect(address, ClientSettings()) as channel:
                    stub = trainer_pb2_grpc.TrainerStub(channel)
                    task = asyncio.create_task(publish(stub, manifest, content + b"end", chunk=50_000))
                    if attempt < 6:
                        await asyncio.sleep(rng.uniform(0.0, 0.12))
                    else:
                        await task
                    os.kill(trainer.pid, signal.SIGKILL)
                    await asyncio.gather(task, return_exceptions=True)

            asyncio.run(publish_and_kill())
        store = RevisionStore(tmp_path / "data" / "revisions")
        published = revision_id(manifest) in {item.revision_id for item in store.newest_first()}
        outcomes.add(published)
        for item in store.newest_first():
            assert b"".join(store.read(item)).endswith(b"end")
        assert not [path for path in (tmp_path / "data" / "revisions").iterdir() if path.name.startswith(".")]
    assert True in outcomes


def test_a_second_trainer_on_the_folder_ends_with_one_line(tmp_path: Path) -> None:
    with process(tmp_path):
        command = [sys.executable, "-m", "paceline.trainer", "serve", "--listen", "127.0.0.1:0"]
        second = subprocess.run(
            [*command, "--data", str(tmp_path / "data")], capture_output=True, text=True, timeout=60
        )
    assert second.returncode == 1
    assert second.stderr.count("\n") == 1
    assert "another trainer uses this folder" in second.stderr


def test_the_commands_publish_list_and_fetch(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "weights").write_bytes(b"w" * 1000)
    with process(tmp_path) as (_, address):

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [sys.executable, "-m", "paceline.trainer", *arguments, "--trainer", address]
            return subprocess.run(command, capture_output=True, text=True, timeout=60)

        published = run("publish", "--drafter", "tiny", "--folder", str(source))
        assert published.returncode == 0, published.stderr
        name = published.stdout.strip()
        listed = json.loads(run("revisions", "--json").stdout)
        assert listed["revision_id"] == name
        fetched = run("fetch", "--revision", name, "--out", str(tmp_path / "out"))
        assert fetched.returncode == 0, fetched.stderr
        assert (tmp_path / "out" / "weights").read_bytes() == b"w" * 1000
        unknown = run("fetch", "--revision", "0" * 64, "--out", str(tmp_path / "other"))
        assert unknown.returncode == 1
        assert "not in this store" in unknown.stderr
        assert not (tmp_path / "other").exists()
