"""The service over real sockets: bounds, refusals, streams, callers that leave."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from pathlib import Path

import grpc
import grpc.aio
import pytest
from trainer_client import TIMEOUT_S, lesson, manifest_for, publish, publish_files, refusal_of, serving

from paceline.trainer import service as service_module
from paceline.trainer.convert import lesson_from_record
from paceline.trainer.remote import receive
from paceline.trainer.revisions import RevisionStore
from paceline.trainer.service import TrainerService
from paceline.v1 import trainer_pb2, trainer_pb2_grpc
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision import revision_id

Stub = trainer_pb2_grpc.TrainerStub


async def until(holds: object) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not holds():  # type: ignore[operator]
            await asyncio.sleep(0.01)


async def count_lessons(stub: Stub) -> int:
    return (await stub.GetReplay(trainer_pb2.GetReplayRequest())).lessons


async def test_submit_counts_new_and_duplicate_lessons_and_keeps_them_whole(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, service):
        first = await stub.Submit(trainer_pb2.SubmitRequest(lessons=[lesson(1), lesson(2), lesson(1)]))
        again = await stub.Submit(trainer_pb2.SubmitRequest(lessons=[lesson(2), lesson(3)]))
        nothing = await stub.Submit(trainer_pb2.SubmitRequest())
        replay = await stub.GetReplay(trainer_pb2.GetReplayRequest())
        assert service.stores is not None
        stored = [lesson_from_record(record) for record in service.stores.replay.lessons()]
    assert (first.stored, first.duplicates, again.stored, again.duplicates) == (2, 1, 1, 1)
    assert (nothing.stored, nothing.duplicates) == (0, 0)
    assert (replay.lessons, replay.tokens, replay.evicted, replay.max_bytes) == (3, 6, 0, 16 << 20)
    assert replay.bytes > 0
    assert stored == [lesson(1), lesson(2), lesson(3)]


async def test_concurrent_submits_lose_nothing_and_share_syncs(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, service):
        requests = [trainer_pb2.SubmitRequest(lessons=[lesson(n), lesson(n + 1)]) for n in range(100)]
        answers = await asyncio.gather(*(stub.Submit(request) for request in requests))
        assert sum(answer.stored for answer in answers) == 101
        assert sum(answer.duplicates for answer in answers) == 99
        assert await count_lessons(stub) == 101
        assert service.stores is not None
        assert service.stores.replay.num_syncs < 100


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"lesson_id": b"short"}, Reason.MALFORMED, "lesson_id"),
        ({"lesson_id": bytes(17)}, Reason.MALFORMED, "lesson_id"),
        ({"tokens": [], "accepted": [], "top_k": 0}, Reason.OUT_OF_RANGE, "tokens"),
        ({"tokens": [1] * 4097}, Reason.OUT_OF_RANGE, "tokens"),
        ({"context": [1] * 32_769}, Reason.OUT_OF_RANGE, "context"),
        ({"accepted": [True]}, Reason.MALFORMED, "accepted"),
        ({"top_k": 65}, Reason.OUT_OF_RANGE, "top_k"),
        ({"top_k": 2**32 - 1}, Reason.OUT_OF_RANGE, "top_k"),
        ({"top_k_ids": [1]}, Reason.MALFORMED, "top_k_ids"),
        ({"top_k_log_probs": [-1.0] * 5}, Reason.MALFORMED, "top_k_log_probs"),
        ({"top_k_log_probs": [-1.0, -1.0, -1.0, 0.5]}, Reason.MALFORMED, "top_k_log_probs"),
        ({"top_k_log_probs": [float("nan"), -1.0, -1.0, -1.0]}, Reason.MALFORMED, "top_k_log_probs"),
        ({"top_k_log_probs": [-1.0, float("-inf"), -1.0, -1.0]}, Reason.MALFORMED, "top_k_log_probs"),
        ({"top_k_log_probs": [float("inf"), float("-inf"), 0.0, 0.0]}, Reason.MALFORMED, "top_k_log_probs"),
        ({"temperature": -1.0}, Reason.OUT_OF_RANGE, "temperature"),
        ({"temperature": 100.5}, Reason.OUT_OF_RANGE, "temperature"),
        ({"temperature": float("nan")}, Reason.OUT_OF_RANGE, "temperature"),
        ({"model": "x" * 201}, Reason.OUT_OF_RANGE, "model"),
        ({"tokenizer_hash": "x" * 201}, Reason.OUT_OF_RANGE, "tokenizer_hash"),
        ({"tenant": "x" * 201}, Reason.OUT_OF_RANGE, "tenant"),
        ({"drafter_ids": ["x"] * 65}, Reason.OUT_OF_RANGE, "drafter_ids"),
        ({"drafter_ids": ["x" * 201]}, Reason.OUT_OF_RANGE, "drafter_ids"),
    ],
)
async def test_a_bad_lesson_is_refused_by_name_and_nothing_is_stored(
    tmp_path: Path, changes: dict[str, object], reason: Reason, field: str
) -> None:
    async with serving(tmp_path) as (stub, _):
        request = trainer_pb2.SubmitRequest(lessons=[lesson(1), lesson(2, **changes)])
        refusal = await refusal_of(stub.Submit(request))
        assert (refusal.reason, refusal.field) == (reason, f"lessons[1].{field}")
        assert refusal.limit
        assert await count_lessons(stub) == 0


async def test_the_largest_lesson_that_is_allowed_is_stored(tmp_path: Path) -> None:
    largest = lesson(
        1,
        context=[2**32 - 1] * 32_768,
        tokens=[2**32 - 1] * 4096,
        accepted=[True] * 4096,
        top_k=64,
        top_k_ids=[2**32 - 1] * 64 * 4096,
        top_k_log_probs=[1e-7] * 64 * 4096,
        temperature=100.0,
        drafter_ids=["x" * 200] * 64,
    )
    async with serving(tmp_path) as (stub, service):
        assert (await stub.Submit(trainer_pb2.SubmitRequest(lessons=[largest]))).stored == 1
        assert service.stores is not None
        assert [lesson_from_record(record) for record in service.stores.replay.lessons()] == [largest]


async def test_too_many_lessons_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        request = trainer_pb2.SubmitRequest(lessons=[lesson(number) for number in range(257)])
        assert (await refusal_of(stub.Submit(request))).reason is Reason.OUT_OF_RANGE


async def test_what_nobody_has_checked_is_not_stored(tmp_path: Path) -> None:
    unknown_field = bytes([0xFA, 0x3F, 3]) + b"xyz"  # field 1023, of three bytes
    smuggled = trainer_pb2.Lesson.FromString(lesson(1).SerializeToString() + unknown_field)
    async with serving(tmp_path) as (stub, service):
        await stub.Submit(trainer_pb2.SubmitRequest(lessons=[smuggled]))
        assert service.stores is not None
        assert all(b"xyz" not in record.payload for record in service.stores.replay.lessons())


async def test_before_the_stores_are_open_calls_are_told_to_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, service):
        stores, service.stores = service.stores, None
        watch = stub.WatchRevisions(trainer_pb2.WatchRevisionsRequest(drafter="tiny"))
        for call in (count_lessons(stub), publish_files(stub, {"f": b""}), anext(aiter(watch))):
            refusal = await refusal_of(call)
            assert refusal.reason is Reason.LOADING
            assert refusal.retry_after_s
        service.stores = stores
        assert await count_lessons(stub) == 0


async def test_a_fetched_revision_is_identical_to_the_byte(tmp_path: Path) -> None:
    files = {"a/model.bin": random.Random(1).randbytes(700_001), "config.json": b"{}", "empty": b""}
    async with serving(tmp_path / "store") as (stub, _):
        revision = await publish_files(stub, files, model="m", metrics={"acceptance": 0.5})
        assert revision.revision_id == revision_id(manifest_for(files, model="m", metrics={"acceptance": 0.5}))
        incoming, told = await receive(stub, revision.revision_id, tmp_path / "new")
        assert told == revision
        incoming.place(tmp_path / "out")
    found = {path: (tmp_path / "out" / path).read_bytes() for path in files}
    assert found == files
    assert sum(len(names) for _, _, names in os.walk(tmp_path / "out")) == len(files)


async def test_publishing_the_same_again_gives_the_same_revision_and_tells_no_watcher(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        first = await publish_files(stub, {"f": b"1"})
        second = await publish_files(stub, {"f": b"2"})
        watch = stub.WatchRevisions(trainer_pb2.WatchRevisionsRequest(drafter="tiny"), timeout=TIMEOUT_S)
        assert (await watch.read()).revision == second
        assert await publish_files(stub, {"f": b"1"}) == first
        third = await publish_files(stub, {"f": b"3"})
        assert (await watch.read()).revision == third, "an old one published again is not news"
        watch.cancel()
    assert len(os.listdir(tmp_path / "revisions")) == 3


async def test_revisions_survive_a_restart_and_list_newest_first(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        mine = [await publish_files(stub, {"f": bytes([number])}) for number in range(5)]
        other = await publish_files(stub, {"f": b"other"}, drafter="other", parent=mine[0].revision_id)
    async with serving(tmp_path) as (stub, _):
        everything = await stub.ListRevisions(trainer_pb2.ListRevisionsRequest())
        assert list(everything.revisions) == [other, *mine[::-1]]
        assert not everything.next_page_token
        first = await stub.ListRevisions(trainer_pb2.ListRevisionsRequest(drafter="tiny", page_size=3))
        rest = await stub.ListRevisions(
            trainer_pb2.ListRevisionsRequest(drafter="tiny", page_size=3, page_token=first.next_page_token)
        )
        assert [*first.revisions, *rest.revisions] == mine[::-1]
        for request, field in (({"page_size": 1001}, "page_size"), ({"page_token": "x"}, "page_token")):
            refusal = await refusal_of(stub.ListRevisions(trainer_pb2.ListRevisionsRequest(**request)))
            assert refusal.field == field


@pytest.mark.parametrize("path", ["../evil", "/etc/passwd", "a/../../b", "record.json"])
async def test_a_path_that_leads_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path / "store") as (stub, _):
        assert (await refusal_of(publish_files(stub, {path: b"data"}))).reason is Reason.MALFORMED
    assert os.listdir(tmp_path / "store" / "revisions") == []
    assert os.listdir(tmp_path) == ["store"]


async def test_what_does_not_match_its_manifest_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    manifest = manifest_for({"f": b"right"})
    async with serving(tmp_path) as (stub, _):
        for content, reason in (
            (b"wrong", Reason.HASH_MISMATCH),
            (b"righ", Reason.MALFORMED),
            (b"", Reason.MALFORMED),
            (b"right and more", Reason.MALFORMED),
        ):
            assert (await refusal_of(publish(stub, manifest, content))).reason is reason
        unknown_parent = manifest_for({"f": b"right"}, parent="0" * 64)
        assert (await refusal_of(publish(stub, unknown_parent, b"right"))).reason is Reason.UNKNOWN_REVISION
        assert not (await stub.ListRevisions(trainer_pb2.ListRevisionsRequest())).revisions
    assert os.listdir(tmp_path / "revisions") == []


async def test_a_publish_stream_out_of_order_is_refused(tmp_path: Path) -> None:
    begin = trainer_pb2.PublishRevisionRequest(manifest=manifest_for({"f": b"x"}))
    chunk = trainer_pb2.PublishRevisionRequest(chunk=b"x")
    empty = trainer_pb2.PublishRevisionRequest()
    async with serving(tmp_path) as (stub, _):
        for messages in ([], [chunk], [begin, begin], [begin, empty], [empty]):
            refusal = await refusal_of(stub.PublishRevision(iter(messages), timeout=TIMEOUT_S))
            assert refusal.reason is Reason.MALFORMED
    assert os.listdir(tmp_path / "revisions") == []


async def test_publishers_are_bounded_and_a_silent_one_gives_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "MAX_PUBLISHERS", 1)
    async with serving(tmp_path, idle_s=0.3) as (stub, _):
        silent = stub.PublishRevision()
        await silent.write(trainer_pb2.PublishRevisionRequest(manifest=manifest_for({"f": b"x"})))
        await until(lambda: os.listdir(tmp_path / "revisions"))
        assert (await refusal_of(publish_files(stub, {"g": b"y"}))).reason is Reason.OVERLOADED
        refusal = await refusal_of(silent)
        assert refusal.reason is Reason.MALFORMED
        assert "nothing came" in refusal.message
        assert os.listdir(tmp_path / "revisions") == []
        await publish_files(stub, {"g": b"y"})


async def test_a_publisher_that_leaves_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        call = stub.PublishRevision()
        await call.write(trainer_pb2.PublishRevisionRequest(manifest=manifest_for({"f": b"xy"})))
        await call.write(trainer_pb2.PublishRevisionRequest(chunk=b"x"))
        await until(lambda: os.listdir(tmp_path / "revisions"))
        call.cancel()
        await until(lambda: not os.listdir(tmp_path / "revisions"))


async def test_a_publisher_that_leaves_at_the_last_moment_leaves_a_whole_revision_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, begun, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    real_rename = Path.rename

    def slow_rename(path: Path, target: Path) -> Path:
        loop.call_soon_threadsafe(begun.set)
        assert go_on.wait(TIMEOUT_S)
        return real_rename(path, target)

    files = {f"f{number}": bytes([number]) * 10 for number in range(50)}
    async with serving(tmp_path) as (stub, service):
        watch = stub.WatchRevisions(trainer_pb2.WatchRevisionsRequest(drafter="tiny"), timeout=TIMEOUT_S)
        monkeypatch.setattr(Path, "rename", slow_rename)
        publishing = asyncio.create_task(publish_files(stub, files))
        await begun.wait()
        publishing.cancel()
        await asyncio.sleep(0.1)  # for the server to hear of it and begin to clean up
        go_on.set()
        published = (await watch.read()).revision
        assert service.stores is not None
        store = service.stores.revisions
        assert b"".join(store.read(store.get(published.revision_id))) == b"".join(files.values())
        watch.cancel()
    assert len(RevisionStore(tmp_path / "revisions").newest_first()) == 1


async def test_a_damaged_file_is_noticed_when_it_is_fetched(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        revision = await publish_files(stub, {"f": b"precious"})
        (tmp_path / "revisions" / revision.revision_id / "f").write_bytes(b"precioux")

        async def fetch() -> None:
            async for _ in stub.FetchRevision(trainer_pb2.FetchRevisionRequest(revision_id=revision.revision_id)):
                pass

        assert (await refusal_of(fetch())).reason is Reason.HASH_MISMATCH
        with pytest.raises(PacelineError, match="another SHA-256"):
            await receive(stub, revision.revision_id, tmp_path / "new")


async def test_an_unknown_revision_is_said_so(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, _):
        for name in ("../../etc", "", "0" * 64, "x" * 100_000):
            call = stub.FetchRevision(trainer_pb2.FetchRevisionRequest(revision_id=name))
            assert (await refusal_of(anext(aiter(call)))).reason is Reason.UNKNOWN_REVISION


async def test_watchers_hear_the_newest_then_later_ones_of_their_line_and_are_forgotten(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, service):
        early = stub.WatchRevisions(trainer_pb2.WatchRevisionsRequest(drafter="tiny"), timeout=TIMEOUT_S)
        await until(lambda: len(service.watchers) == 1)
        first = await publish_files(stub, {"f": b"0"})
        assert (await early.read()).revision == first
        newest = await publish_files(stub, {"f": b"1"})
        assert (await early.read()).revision == newest
        late = stub.WatchRevisions(trainer_pb2.WatchRevisionsRequest(drafter="tiny"), timeout=TIMEOUT_S)
        assert (await late.read()).revision == newest
        await publish_files(stub, {"f": b"2"}, drafter="other")
        later = await publish_files(stub, {"f": b"3"})
        for watch in (early, late):
            assert (await watch.read()).revision == later
            watch.cancel()
        await until(lambda: len(service.watchers) == 0)


async def test_when_the_trainer_stops_watchers_are_told(tmp_path: Path) -> None:
    async with serving(tmp_path) as (stub, service):
        watch = stub.WatchRevisions(trainer_pb2.WatchRevisionsRequest(drafter="tiny"), timeout=TIMEOUT_S)
        await until(lambda: len(service.watchers) == 1)
        service.watchers.close()
        assert (await refusal_of(anext(aiter(watch)))).reason is Reason.DRAINING


class Liar(TrainerService):
    """A trainer that sends other bytes, or another revision, than it is asked for."""

    def __init__(self, parts: list[trainer_pb2.FetchRevisionResponse]) -> None:
        super().__init__(lambda: 0.0)
        self._parts = parts

    async def FetchRevision(self, request: object, context: object):  # type: ignore[no-untyped-def, override]
        for part in self._parts:
            yield part


@pytest.mark.parametrize(
    ("claimed", "chunks", "says"),
    [
        ({"f": b"good"}, [b"evil"], "another SHA-256"),
        ({"f": b"good"}, [b"good", b"more"], "more bytes"),
        ({"f": b"evil"}, [b"evil"], "another revision"),
        ({"../f": b"good"}, [b"good"], "relative"),
        (None, [b"good"], "1 to 200"),
    ],
)
async def test_a_fetch_believes_only_the_hash(
    tmp_path: Path, claimed: dict[str, bytes] | None, chunks: list[bytes], says: str
) -> None:
    parts = [trainer_pb2.FetchRevisionResponse(chunk=chunk) for chunk in chunks]
    if claimed is not None:
        message = trainer_pb2.Revision(manifest=manifest_for(claimed))
        parts.insert(0, trainer_pb2.FetchRevisionResponse(revision=message))
    server = grpc.aio.server()
    trainer_pb2_grpc.add_TrainerServicer_to_server(Liar(parts), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(Exception, match=says):
            await receive(Stub(channel), revision_id(manifest_for({"f": b"good"})), tmp_path / "new")
    await server.stop(None)


async def test_who_watches_hears_of_a_withdrawal_and_who_comes_later_of_what_is_left(tmp_path: Path) -> None:
    request = trainer_pb2.WatchRevisionsRequest(drafter="tiny")
    async with serving(tmp_path) as (stub, _):
        old, new = [await publish_files(stub, {"f": content}) for content in (b"1", b"2")]
        watching = aiter(stub.WatchRevisions(request, timeout=TIMEOUT_S))
        assert (await anext(watching)).revision == new
        withdrawal = trainer_pb2.WithdrawRevisionRequest(revision_id=new.revision_id, reason="slower")
        for _ in range(2):
            answer = await stub.WithdrawRevision(withdrawal)
            assert answer.revision.withdrawn == "slower"
        assert (await anext(watching)).revision == answer.revision
        assert (await anext(aiter(stub.WatchRevisions(request, timeout=TIMEOUT_S)))).revision == old
        listed = await stub.ListRevisions(trainer_pb2.ListRevisionsRequest())
        assert list(listed.revisions) == [answer.revision, old]
        again = await publish_files(stub, {"f": b"2"})
        assert again == answer.revision
        third = await publish_files(stub, {"f": b"3"}, parent=old.revision_id)
        assert (await anext(watching)).revision == third, "the second withdrawal was none"
        for name, reason, why in (
            ("0" * 64, "x", Reason.UNKNOWN_REVISION),
            (third.revision_id, "", Reason.OUT_OF_RANGE),
        ):
            bad = trainer_pb2.WithdrawRevisionRequest(revision_id=name, reason=reason)
            assert (await refusal_of(stub.WithdrawRevision(bad))).reason is why
