"""The trainer as a process: killed, stopped, out of room, found through a router; and the commands against it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from trainer_client import TIMEOUT_S, lesson, manifest_for, process, publish

from paceline.trainer.convert import lesson_from_record
from paceline.trainer.replay import MIB, replay_bounds
from paceline.trainer.revisions import RevisionStore
from paceline.trainer.segment_log import SegmentLog, read_view
from paceline.v1 import router_pb2, router_pb2_grpc, trainer_pb2, trainer_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import Reason
from paceline.wire.revision import revision_id
from paceline.wire.revision_folder import seal
from paceline.wire.settings import ClientSettings
from paceline.wire.signature import verifier
from paceline.wire.status import from_rpc_error
from paceline.wire.version import make_peer

Stub = trainer_pb2_grpc.TrainerStub


def submit(address: str, *lessons: trainer_pb2.Lesson) -> trainer_pb2.SubmitResponse:
    with grpc.insecure_channel(address) as channel:
        return Stub(channel).Submit(trainer_pb2.SubmitRequest(lessons=lessons), timeout=TIMEOUT_S)


def replay_of(address: str) -> trainer_pb2.GetReplayResponse:
    with grpc.insecure_channel(address) as channel:
        return Stub(channel).GetReplay(trainer_pb2.GetReplayRequest(), timeout=TIMEOUT_S)


def lessons_on_disk(folder: Path) -> Iterator[trainer_pb2.Lesson]:
    log = SegmentLog(folder / "data" / "replay", replay_bounds(1024 * MIB, 0.0), time.time())
    yield from map(lesson_from_record, read_view(log.view()))


def test_a_lesson_survives_sigkill_right_after_the_answer(tmp_path: Path) -> None:
    for number in range(3):
        with process(tmp_path) as (trainer, address), grpc.insecure_channel(address) as channel:
            assert Stub(channel).Submit(trainer_pb2.SubmitRequest(lessons=[lesson(number)])).stored == 1
            os.kill(trainer.pid, signal.SIGKILL)
    with process(tmp_path) as (_, address):
        assert replay_of(address).lessons == 3
        again = submit(address, *(lesson(number) for number in range(4)))
        assert (again.stored, again.duplicates) == (1, 3)
    assert list(lessons_on_disk(tmp_path)) == [lesson(number) for number in range(4)]


def test_sigkill_under_load_loses_nothing_that_was_answered_and_invents_nothing(tmp_path: Path) -> None:
    answered: set[int] = set()

    async def load_and_kill(address: str, pid: int) -> None:
        async with connect(address, ClientSettings()) as channel:

            async def send(number: int) -> None:
                await Stub(channel).Submit(trainer_pb2.SubmitRequest(lessons=[lesson(number)]), timeout=TIMEOUT_S)
                answered.add(number)
                if len(answered) == 150:
                    os.kill(pid, signal.SIGKILL)

            await asyncio.gather(*(send(number) for number in range(400)), return_exceptions=True)

    with process(tmp_path) as (trainer, address):
        asyncio.run(load_and_kill(address, trainer.pid))
    found = list(lessons_on_disk(tmp_path))
    numbers = {int.from_bytes(item.lesson_id, "big") for item in found}
    assert answered <= numbers
    assert all(item == lesson(int.from_bytes(item.lesson_id, "big")) for item in found)


def test_sigkill_during_a_publish_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    rng = random.Random(5)
    outcomes = []
    for attempt in range(10):
        content = rng.randbytes(3_000_000)
        manifest = manifest_for({"weights": content, "tail": b"end"})

        async def publish_and_kill(
            address: str,
            pid: int,
            manifest: trainer_pb2.RevisionManifest = manifest,
            content: bytes = content,
            attempt: int = attempt,
        ) -> None:
            async with connect(address, ClientSettings()) as channel:
                publishing = publish(Stub(channel), manifest, content + b"end", chunk=50_000, signature=b"s" * 64)
                task = asyncio.create_task(publishing)
                await (asyncio.wait([task], timeout=attempt * rng.uniform(0.0, 0.03)) if attempt < 9 else task)
                os.kill(pid, signal.SIGKILL)
                await asyncio.gather(task, return_exceptions=True)

        with process(tmp_path) as (trainer, address):
            asyncio.run(publish_and_kill(address, trainer.pid))
        store = RevisionStore(tmp_path / "data" / "revisions")
        outcomes.append(revision_id(manifest) in {item.revision_id for item in store.newest_first()})
        for item in store.newest_first():
            assert b"".join(store.read(item)).endswith(b"end")
            assert item.revision.signature == b"s" * 64
        names = os.listdir(tmp_path / "data" / "revisions")
        assert len(names) == sum(outcomes), "no half of one stays"
    assert outcomes[-1], "one that was answered is there"
    assert not all(outcomes), "some were killed in the middle, or this test shows nothing"


def test_sigkill_during_a_withdrawal_leaves_it_in_use_or_withdrawn(tmp_path: Path) -> None:
    rng = random.Random(6)
    outcomes = []
    for attempt in range(8):

        async def withdraw_and_kill(address: str, pid: int, attempt: int = attempt) -> tuple[str, bool]:
            async with connect(address, ClientSettings()) as channel:
                manifest = manifest_for({"f": bytes([attempt])})
                name = (await publish(Stub(channel), manifest, bytes([attempt]))).revision_id
                request = trainer_pb2.WithdrawRevisionRequest(revision_id=name, reason="slower" * 100)
                task = asyncio.ensure_future(Stub(channel).WithdrawRevision(request, timeout=TIMEOUT_S))
                await (asyncio.wait([task], timeout=rng.uniform(0.0, 0.004)) if attempt < 7 else task)
                os.kill(pid, signal.SIGKILL)
                answer = (await asyncio.gather(task, return_exceptions=True))[0]
                return name, isinstance(answer, trainer_pb2.WithdrawRevisionResponse)

        with process(tmp_path) as (trainer, address):
            name, was_answered = asyncio.run(withdraw_and_kill(address, trainer.pid))
        stored = RevisionStore(tmp_path / "data" / "revisions").get(name)
        assert stored.revision.withdrawn in ("", "slower" * 100)
        assert stored.in_use <= (not was_answered), "one that was answered is withdrawn for good"
        outcomes.append(stored.in_use)
    assert not outcomes[-1]


def test_a_full_disk_refuses_what_comes_and_keeps_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of the process's files stands in for the full disk: the same calls fail, for real."""
    wide = {"top_k": 64, "top_k_ids": [7] * 64 * 500, "top_k_log_probs": [-1.0] * 64 * 500}
    large = [lesson(n, tokens=[1] * 500, accepted=[True] * 500, **wide) for n in range(8)]
    with process(tmp_path) as (trainer, address):
        assert submit(address, lesson(100)).stored == 1
        unlimited = resource.prlimit(trainer.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(trainer.pid, resource.RLIMIT_FSIZE, (100_000, unlimited[1]))
        for call in (
            lambda: submit(address, *large),
            lambda: asyncio.run(publish_to(address, {"weights": bytes(1_000_000)})),
        ):
            with pytest.raises(grpc.RpcError) as error:
                call()
            refusal = from_rpc_error(error.value)
            assert refusal is not None, error.value
            assert refusal.reason is Reason.STORAGE_FULL
        assert replay_of(address).lessons == 1
        assert os.listdir(tmp_path / "data" / "revisions") == []
        resource.prlimit(trainer.pid, resource.RLIMIT_FSIZE, unlimited)
        assert submit(address, *large).stored == 8
        asyncio.run(publish_to(address, {"weights": bytes(1_000_000)}))
    assert list(lessons_on_disk(tmp_path)) == [lesson(100), *large]


async def publish_to(address: str, files: dict[str, bytes]) -> trainer_pb2.Revision:
    """In one chunk: gRPC may hide a refusal from a client that is still sending."""
    async with connect(address, ClientSettings()) as channel:
        return await publish(Stub(channel), manifest_for(files), b"".join(files.values()), chunk=1 << 20)


def test_sigterm_lets_a_publish_finish_tells_watchers_and_ends_well(tmp_path: Path) -> None:
    files = {"f": b"x" * 10}

    async def stop_in_the_middle(trainer: subprocess.Popen[bytes], address: str) -> trainer_pb2.Revision:
        async with connect(address, ClientSettings()) as channel:
            watch = Stub(channel).WatchRevisions(trainer_pb2.WatchRevisionsRequest(drafter="tiny"))
            watching = asyncio.ensure_future(anext(aiter(watch)))
            call = Stub(channel).PublishRevision()
            await call.write(trainer_pb2.PublishRevisionRequest(manifest=manifest_for(files)))
            while not os.listdir(tmp_path / "data" / "revisions"):
                await asyncio.sleep(0.01)
            trainer.send_signal(signal.SIGTERM)
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await watching
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            await call.write(trainer_pb2.PublishRevisionRequest(chunk=b"x" * 10))
            await call.done_writing()
            return (await call).revision

    with process(tmp_path) as (trainer, address):
        revision = asyncio.run(stop_in_the_middle(trainer, address))
        assert trainer.wait(TIMEOUT_S) == 0
    assert RevisionStore(tmp_path / "data" / "revisions").get(revision.revision_id)


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "paceline.trainer", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env={**os.environ, **environment}, check=False
    )


def test_a_folder_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    with process(tmp_path):
        second = run("serve", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data"))
    (tmp_path / "file").write_text("")
    no_folder = run("serve", "--listen", "127.0.0.1:0", "--data", str(tmp_path / "file" / "data"))
    for result, says in ((second, "another trainer uses this folder"), (no_folder, "Not a directory")):
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert says in result.stderr
    bounds = run("serve", "--replay-max-mib", "7")
    assert bounds.returncode == 2
    assert "--replay-max-mib" in bounds.stderr


def test_a_damaged_segment_is_logged_without_text_and_the_rest_is_served(tmp_path: Path) -> None:
    with process(tmp_path) as (_, address):
        submit(address, lesson(1), lesson(2, tenant="secret-tenant"), lesson(3))
    segment = next((tmp_path / "data" / "replay").glob("*.segment"))
    content = bytearray(segment.read_bytes())
    content[content.index(b"secret-tenant")] ^= 1
    segment.write_bytes(content)
    with process(tmp_path) as (_, address):
        assert replay_of(address).lessons == 2
    log = (tmp_path / "log").read_text()
    assert "damaged" in log
    assert "secret" not in log


class Registry(router_pb2_grpc.RegistryServicer):
    """Remembers who announced and withdrew."""

    def __init__(self) -> None:
        self.members: list[router_pb2.Member] = []
        self.withdrawn: list[str] = []

    async def Announce(self, request: router_pb2.AnnounceRequest, context: object) -> router_pb2.AnnounceResponse:
        self.members.append(request.member)
        return router_pb2.AnnounceResponse(peer=make_peer("fake-router", "0"), lease_s=6.0)

    async def Withdraw(self, request: router_pb2.WithdrawRequest, context: object) -> router_pb2.WithdrawResponse:
        self.withdrawn.append(request.id)
        return router_pb2.WithdrawResponse()


async def test_a_trainer_announces_itself_once_it_can_serve_and_withdraws(tmp_path: Path) -> None:
    registry = Registry()
    server = grpc.aio.server()
    router_pb2_grpc.add_RegistryServicer_to_server(registry, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    def live() -> str:
        with process(tmp_path, "--router", f"127.0.0.1:{port}", "--trainer-id", "t1") as (trainer, address):
            deadline = time.monotonic() + TIMEOUT_S
            while not registry.members and time.monotonic() < deadline:
                time.sleep(0.01)
            assert replay_of(registry.members[0].address).lessons == 0
            trainer.send_signal(signal.SIGTERM)
            assert trainer.wait(TIMEOUT_S) == 0
            return address

    address = await asyncio.to_thread(live)
    member = registry.members[0]
    assert (member.id, member.role, member.address) == ("t1", router_pb2.ROLE_TRAINER, address)
    assert (member.peer.package, member.peer.protocol_major) == ("paceline-trainer", 1)
    assert registry.withdrawn == ["t1"]
    await server.stop(None)


def test_the_commands_publish_list_and_fetch(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "weights").write_bytes(b"w" * 1000)
    (source / "sub" / "[bold]").write_bytes(b"b")
    with process(tmp_path) as (_, address):
        at = ("--trainer", address)
        fields = ("--drafter", "[red]tiny", "--model", "m", "--format", "onnx", "--metrics", "acceptance=0.625")
        published = run("publish", *at, *fields, "--folder", str(source))
        assert published.returncode == 0, published.stderr
        name = published.stdout.strip()
        listed = json.loads(run("revisions", "--json", *at).stdout)
        assert (listed["revision_id"], listed["manifest"]["metrics"]) == (name, {"acceptance": 0.625})
        table = run("revisions", *at, COLUMNS="160").stdout
        assert name[:16] in table
        assert "[red]tiny" in table, "names are text, not markup"
        for wanted, out in ((name, "whole"), (name[:8], "beginning")):
            fetched = run("fetch", *at, "--revision", wanted, "--out", str(tmp_path / "new" / out))
            assert (fetched.returncode, fetched.stderr) == (0, ""), "no progress bar where there is no terminal"
            found = {path.name: path.read_bytes() for path in (tmp_path / "new" / out).rglob("*") if path.is_file()}
            manifest = found.pop("manifest.json")
            assert hashlib.sha256(manifest).hexdigest() == name, "byte for byte what the id is the hash of"
            assert found == {"weights": b"w" * 1000, "[bold]": b"b"}
        (source / "manifest.json").write_text("{}")
        for arguments, says in (
            (("fetch", "--revision", "0" * 64, "--out", str(tmp_path / "other")), "not in this store"),
            (("fetch", "--revision", "zz", "--out", str(tmp_path / "other")), "0 revisions begin so"),
            (("fetch", "--revision", name, "--out", str(source)), "exists"),
            (("fetch", "--revision", name, "--out", str(source / "weights" / "x")), "File exists"),
            (("publish", "--drafter", "d", "--folder", str(tmp_path / "nowhere")), "no such folder"),
            (("publish", "--drafter", "d", "--folder", str(source)), "manifest.json"),
            (("publish", "--folder", str(source / "sub")), "--drafter"),
        ):
            refused = run(*arguments, *at)
            assert refused.returncode == 1
            assert says in refused.stderr
            assert refused.stderr.count("\n") == 1
        assert sorted(os.listdir(tmp_path / "new")) == ["beginning", "whole"]
        assert not (tmp_path / "other").exists()
    gone = run("revisions", *at)
    assert gone.returncode == 1
    assert address in gone.stderr


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_signed_folder_goes_to_the_trainer_and_comes_back_as_it_was(tmp_path: Path) -> None:
    folder, key = tmp_path / "made", tmp_path / "key"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "weights").write_bytes(b"w" * 1000)
    manifest = seal(folder, trainer_pb2.RevisionManifest(drafter="tiny", format="onnx", data="0" * 64))
    made = run("keygen", "--out", str(key))
    assert made.stdout.strip() == f"{key}.pub"
    assert key.stat().st_mode & 0o777 == 0o600
    again = run("keygen", "--out", str(key))
    assert (again.returncode, "exists" in again.stderr) == (1, True), "a key is never overwritten"
    with process(tmp_path) as (_, address):
        at = ("--trainer", address)
        published = run("publish", *at, "--folder", str(folder), "--sign", str(key))
        assert published.stdout.strip() == revision_id(manifest), published.stderr
        out = tmp_path / "fetched"
        assert run("fetch", *at, "--revision", revision_id(manifest), "--out", str(out)).returncode == 0
        signature = (out / "manifest.sig").read_bytes()
        verifier(tmp_path / "key.pub")(manifest, signature)
        assert files_in(out) == {**files_in(folder), "manifest.sig": signature}
        assert run("publish", *at, "--folder", str(out)).stdout == published.stdout, "the same again is harmless"
        run("keygen", "--out", str(tmp_path / "other"))
        for arguments, says in (
            (("--drafter", "big"), "--drafter big"),
            (("--metrics", "a=1"), "--metrics"),
            (("--sign", str(tmp_path / "other")), "signed with another key"),
            (("--sign", str(tmp_path / "key.pub")), "no private key"),
        ):
            refused = run("publish", *at, "--folder", str(out), *arguments)
            assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
            assert says in refused.stderr
        (out / "extra").write_bytes(b"")
        assert "isn't listed" in run("publish", *at, "--folder", str(out)).stderr
        (out / "extra").unlink()
        (out / "sub" / "weights").write_bytes(b"v" * 1000)
        assert "is another" in run("publish", *at, "--folder", str(out)).stderr
        withdrawn = run("withdraw", *at, "--revision", revision_id(manifest)[:9], "--reason", "0.9 of the speed")
        assert withdrawn.stdout == published.stdout, withdrawn.stderr
        assert json.loads(run("revisions", "--json", *at).stdout)["withdrawn"] == "0.9 of the speed"
        assert "0.9 of the speed" in run("revisions", *at, COLUMNS="200").stdout
        assert "not in this store" in run("withdraw", *at, "--revision", "0" * 64, "--reason", "x").stderr
