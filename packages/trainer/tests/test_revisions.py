"""The revision store and what it takes in: all or nothing, by name, in the order of publishing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trainer_client import Files, manifest_for

from paceline.trainer import revisions as revisions_module
from paceline.trainer.incoming import Incoming
from paceline.trainer.manifest import MAX_TOTAL_BYTES, check_manifest
from paceline.trainer.revisions import RevisionStore, StoredRevision
from paceline.trainer.watchers import Watchers
from paceline.v1 import trainer_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision import revision_id


def put(store: RevisionStore, files: Files, now: float = 0.0, **fields: object) -> StoredRevision:
    incoming = store.receive(manifest_for(files, **fields))
    incoming.write(b"".join(files.values()))
    return store.publish(incoming, now)[0]


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_revision_is_its_files_beside_the_manifest_that_names_it(tmp_path: Path) -> None:
    files = {"a/b/model.bin": b"weights", "config.json": b"{}", "empty": b""}
    stored = put(RevisionStore(tmp_path), files, metrics={"acceptance": 0.625}, model="m")
    folder = tmp_path / stored.revision_id
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*files, "manifest.json", "record.json"}
    assert hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest() == stored.revision_id
    assert {path.stat().st_mode & 0o077 for path in (tmp_path, folder, *folder.rglob("*"))} == {0}
    assert RevisionStore(tmp_path).get(stored.revision_id).revision == stored.revision


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=30), min_size=1, max_size=6), st.data())
def test_however_the_stream_is_cut_the_files_are_the_same(contents: list[bytes], data: st.DataObject) -> None:
    files = {f"f{index}": content for index, content in enumerate(contents)}
    stream = b"".join(contents)
    with tempfile.TemporaryDirectory() as name:
        store = RevisionStore(Path(name))
        incoming = store.receive(manifest_for(files))
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            incoming.write(stream[:size])
            stream = stream[size:]
        stored, _ = store.publish(incoming, 0.0)
        assert {path: (stored.folder / path).read_bytes() for path in files} == files
        assert b"".join(store.read(stored)) == b"".join(contents)


def with_file(**fields: object) -> trainer_pb2.RevisionManifest:
    info = {"path": "f", "size": 1, "sha256": bytes(32), **fields}
    return trainer_pb2.RevisionManifest(drafter="d", files=[types_pb2.FileInfo(**info)])  # type: ignore[arg-type]


def with_paths(*paths: str) -> trainer_pb2.RevisionManifest:
    return manifest_for(dict.fromkeys(paths, b"x"))


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (trainer_pb2.RevisionManifest(drafter="d"), Reason.OUT_OF_RANGE),
        (manifest_for({"f": b""}, drafter=""), Reason.OUT_OF_RANGE),
        (manifest_for({"f": b""}, drafter="x" * 201), Reason.OUT_OF_RANGE),
        (manifest_for({"f": b""}, model="x" * 201), Reason.OUT_OF_RANGE),
        (manifest_for({"f": b""}, parent="x" * 201), Reason.OUT_OF_RANGE),
        (manifest_for({"f": b""}, command="x" * 4097), Reason.OUT_OF_RANGE),
        (manifest_for({"f": b""}, data="0" * 65), Reason.OUT_OF_RANGE),
        (manifest_for({"f": b""}, data="0" * 63 + "g"), Reason.MALFORMED),
        (manifest_for({"f": b""}, metrics={str(n): 0.0 for n in range(65)}), Reason.OUT_OF_RANGE),
        (manifest_for({"f": b""}, metrics={"a": float("nan")}), Reason.OUT_OF_RANGE),
        (manifest_for({"f": b""}, metrics={"a": float("inf")}), Reason.OUT_OF_RANGE),
        (manifest_for({"f": b""}, metrics={"": 0.0}), Reason.OUT_OF_RANGE),
        (manifest_for({f"f{n}": b"" for n in range(257)}), Reason.OUT_OF_RANGE),
        (with_file(size=MAX_TOTAL_BYTES + 1), Reason.OUT_OF_RANGE),
        (with_file(sha256=b"short"), Reason.MALFORMED),
        (with_paths("F", "f"), Reason.MALFORMED),
        (with_paths("caf\u00e9", "cafe\u0301"), Reason.MALFORMED),
        (with_paths("a", "a/b"), Reason.MALFORMED),
        (with_paths("A/b/c", "a/B"), Reason.MALFORMED),
        *(
            (with_paths(path), Reason.MALFORMED)
            for path in (
                *("../evil", "/etc/passwd", "a/../../b", "a/..", "", ".", "./a", "a//b", "a/", "a\\b", "..\\a"),
                *("nul\0", "line\nbreak", "\x1b[31m", "x" * 201, "\u00e9" * 128),
                *("record.json", "manifest.json", "Manifest.JSON", "record.json/a", "manifest.sig", "withdrawn.json"),
            )
        ),
    ],
)
def test_each_bound_of_a_manifest_is_refused_and_leaves_nothing(
    tmp_path: Path, manifest: trainer_pb2.RevisionManifest, reason: Reason
) -> None:
    store = RevisionStore(tmp_path)
    with pytest.raises(PacelineError) as refusal:
        store.receive(manifest)
    assert refusal.value.reason is reason
    assert refusal.value.field.startswith("manifest.")
    assert refusal.value.limit is not None
    assert list(tmp_path.iterdir()) == []


def test_the_largest_manifest_that_is_allowed_is_taken() -> None:
    manifest = manifest_for(
        {("a/" * 40) + f"{n:03d}": b"" for n in range(256)}, metrics={str(n): -0.5 for n in range(64)}, model="x" * 200
    )
    manifest.files[0].size = MAX_TOTAL_BYTES
    check_manifest(manifest)
    check_manifest(with_paths("a/manifest.json", "weights of \u03b8.bin", ".gitattributes", "a..b", "a/record.json"))


def test_revisions_are_ordered_as_published_even_if_the_clock_goes_back(tmp_path: Path) -> None:
    store = RevisionStore(tmp_path)
    names = [put(store, {"f": bytes([n])}, now).revision_id for n, now in enumerate([100.0, 50.0, 100.0, 0.0, 200.0])]
    for opened in (store, RevisionStore(tmp_path)):
        listed = opened.newest_first()
        assert [item.revision_id for item in listed] == names[::-1]
        times = [item.published_unix_s for item in listed]
        assert times == sorted(set(times), reverse=True)


def test_pages_hold_against_publishes_in_between_and_against_large_manifests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = RevisionStore(tmp_path)
    names = [put(store, {"f": bytes([n])}, command="x" * 1000).revision_id for n in range(7)]
    monkeypatch.setattr(revisions_module, "MAX_PAGE_BYTES", 2500)
    listed, token = [], ""
    while True:
        page, token = store.page("tiny", 3, token)
        assert len(page) <= 2, "three would be too large a message"
        listed += [item.revision_id for item in page]
        if not token:
            break
        put(store, {"f": f"between {token}".encode()})
    assert listed == names[::-1]
    monkeypatch.setattr(revisions_module, "MAX_PAGE_BYTES", 1)
    page, token = store.page("tiny", 3, "")
    assert len(page) == 1
    assert token, "one that is too large alone still comes, or there would be no end"


@pytest.mark.parametrize("token", ["x", "[]", "{}", "5", "[1]", "[null, 1]", "[" * 100_000, "\0"])
def test_what_is_no_page_token_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(PacelineError) as refusal:
        RevisionStore(tmp_path).page("", 10, token)
    assert (refusal.value.reason, refusal.value.field) == (Reason.MALFORMED, "page_token")


def test_the_same_content_is_stored_once_whoever_comes_first(tmp_path: Path) -> None:
    store = RevisionStore(tmp_path)
    both = [store.receive(manifest_for({"f": b"x"})) for _ in range(8)]
    for incoming in both:
        incoming.write(b"x")
    results: list[tuple[StoredRevision, bool]] = []
    threads = [threading.Thread(target=lambda item=item: results.append(store.publish(item, 1.0))) for item in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for incoming in both:
        incoming.discard()
    assert sorted(is_new for _, is_new in results) == [False] * 7 + [True]
    assert len({stored.published_unix_s for stored, _ in results}) == 1
    assert [path.name for path in tmp_path.iterdir()] == [results[0][0].revision_id]


def test_discarding_at_any_moment_never_guts_a_revision(tmp_path: Path) -> None:
    files = {f"f{n}": bytes([n]) * 100 for n in range(20)}
    store = RevisionStore(tmp_path)
    num_published = 0
    for attempt in range(30):
        incoming = store.receive(manifest_for(files, command=str(attempt)))
        incoming.write(b"".join(files.values()))
        leaving = threading.Timer(attempt * 0.0001, incoming.discard)
        leaving.start()
        try:
            stored, _ = store.publish(incoming, 0.0)
        except PacelineError as refusal:
            assert refusal.reason is Reason.MALFORMED  # noqa: PT017 - either outcome is right
        else:
            num_published += 1
            leaving.join()
            assert b"".join(store.read(stored)) == b"".join(files.values())
        leaving.join()
        assert leftovers(tmp_path) == []
    assert len(RevisionStore(tmp_path).newest_first()) == num_published


def test_what_a_crash_left_is_removed_and_what_is_damaged_is_left_out(tmp_path: Path) -> None:
    store = RevisionStore(tmp_path)
    contents = [b"0", b"1", b"2", b"3", b"4"]
    whole, manifest_changed, no_record, cut, renamed = [put(store, {"f": content}).folder for content in contents]
    store.receive(manifest_for({"f": b"unfinished"}))
    assert leftovers(tmp_path)
    (manifest_changed / "manifest.json").write_text("{}")
    (no_record / "record.json").unlink()
    (cut / "f").write_bytes(b"")
    renamed.rename(tmp_path / ("0" * 64))
    again = RevisionStore(tmp_path)
    assert leftovers(tmp_path) == []
    assert [item.folder for item in again.newest_first()] == [whole]
    for content in contents:
        put(again, {"f": content})
    assert len(again.newest_first()) == len(contents), "to publish again repairs"
    assert len(RevisionStore(tmp_path).newest_first()) == len(contents)


@pytest.mark.parametrize("damage", [b"precioux", b"precious and more", b"prec", None])
def test_a_file_that_is_no_longer_what_was_published_is_not_passed_off_as_it(
    tmp_path: Path, damage: bytes | None
) -> None:
    store = RevisionStore(tmp_path)
    stored = put(store, {"f": b"precious"})
    file = stored.folder / "f"
    file.unlink() if damage is None else file.write_bytes(damage)
    if damage == b"precious and more":
        assert b"".join(store.read(stored)) == b"precious", "no more is read than was published"
        return
    with pytest.raises(PacelineError) as refusal:
        list(store.read(stored))
    assert (refusal.value.reason, refusal.value.field) == (Reason.HASH_MISMATCH, "f")


def test_a_parent_must_be_there(tmp_path: Path) -> None:
    store = RevisionStore(tmp_path)
    with pytest.raises(PacelineError) as refusal:
        store.receive(manifest_for({"f": b""}, parent="0" * 64))
    assert refusal.value.reason is Reason.UNKNOWN_REVISION
    first = put(store, {"f": b"1"})
    child = put(store, {"f": b"2"}, parent=first.revision_id)
    assert child.revision.manifest.parent == first.revision_id


def test_nothing_is_placed_over_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    incoming = Incoming(manifest_for({"f": b"x"}), tmp_path / "new")
    incoming.write(b"x")
    with pytest.raises(OSError, match="not empty"):
        incoming.place(tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def revision(line: str, published: float) -> StoredRevision:
    manifest = trainer_pb2.RevisionManifest(drafter=line)
    message = trainer_pb2.Revision(revision_id=f"{line}{published}", manifest=manifest, published_unix_s=published)
    return StoredRevision(message, Path())


async def test_a_slow_watcher_gets_the_latest_of_each_line_and_a_line_never_goes_back() -> None:
    watchers = Watchers()
    with watchers.watch("") as everything, watchers.watch("a") as only_a:
        for line, published in (("a", 1.0), ("b", 2.0), ("a", 4.0), ("a", 3.0)):
            watchers.publish(revision(line, published))
        watchers.close()
        assert [item async for item in everything] == []
    assert len(watchers) == 0
    with watchers.watch("a") as late:
        assert [item async for item in late] == [], "who comes after the end isn't kept waiting"
    watchers = Watchers()
    with watchers.watch("") as everything, watchers.watch("a") as only_a:
        for line, published in (("a", 1.0), ("b", 2.0), ("a", 4.0), ("a", 3.0)):
            watchers.publish(revision(line, published))
        reading = aiter(everything)
        assert [await anext(reading), await anext(reading)] == [revision("a", 4.0), revision("b", 2.0)]
        assert await anext(aiter(only_a)) == revision("a", 4.0)
        waiting = asyncio.ensure_future(anext(reading))
        watchers.publish(revision("a", 4.0))
        await asyncio.sleep(0.01)
        assert not waiting.done(), "what a watcher has had does not come again"
        watchers.publish(revision("b", 5.0))
        assert await waiting == revision("b", 5.0)


async def test_watchers_hear_of_withdrawals_and_of_what_one_had_hidden_from_them() -> None:
    watchers = Watchers()
    old, new = revision("a", 1.0), revision("a", 2.0)
    gone = StoredRevision(trainer_pb2.Revision(revision_id=new.revision_id, withdrawn="slow"), Path())
    gone.revision.manifest.drafter = "a"
    with watchers.watch("a") as slow, watchers.watch("a") as quick, watchers.watch("b") as other:
        reading = aiter(quick)
        watchers.publish(old)
        assert await anext(reading) == old
        watchers.publish(new)
        assert await anext(reading) == new
        watchers.withdraw(gone, old)
        assert await anext(reading) == gone
        waiting = asyncio.ensure_future(anext(reading))
        await asyncio.sleep(0.01)
        assert not waiting.done(), "what it had before the withdrawn one does not come again"
        late = aiter(slow)
        assert [await anext(late), await anext(late)] == [gone, old], "it never heard of the old one: it does now"
        watchers.publish(revision("a", 3.0))
        assert await anext(late) == await waiting == revision("a", 3.0)
        watchers.close()
        assert [item async for item in other] == []


def test_a_withdrawal_stays_and_hides_a_revision_from_who_asks_for_the_newest(tmp_path: Path) -> None:
    store = RevisionStore(tmp_path)
    old, new = put(store, {"f": b"1"}, 1.0), put(store, {"f": b"2"}, 2.0)
    withdrawn, is_new = store.withdraw(new.revision_id, "0.92 of its parent's speed")
    assert (withdrawn.revision.withdrawn, is_new) == ("0.92 of its parent's speed", True)
    assert store.withdraw(new.revision_id, "another reason") == (withdrawn, False), "the first reason stays"
    for opened in (store, RevisionStore(tmp_path)):
        assert opened.newest_in_use("tiny") == opened.get(old.revision_id)
        assert opened.newest_first()[0].revision == withdrawn.revision, "a list shows it"
        assert b"".join(opened.read(opened.get(new.revision_id))) == b"2", "its files stay"
    assert put(store, {"f": b"2"}, 9.0).revision == withdrawn.revision, "to publish it again does not bring it back"
    store.withdraw(old.revision_id, "old")
    assert store.newest_in_use() is None
    for name, reason, why in (("0" * 64, "x", Reason.UNKNOWN_REVISION), (old.revision_id, "", Reason.OUT_OF_RANGE)):
        with pytest.raises(PacelineError) as refusal:
            store.withdraw(name, reason)
        assert refusal.value.reason is why


def test_a_signature_is_kept_may_come_later_and_is_never_replaced(tmp_path: Path) -> None:
    store = RevisionStore(tmp_path)

    def publish(signature: bytes) -> bytes:
        incoming = store.receive(manifest_for({"f": b"x"}))
        incoming.write(b"x")
        try:
            return store.publish(incoming, 1.0, signature)[0].revision.signature
        finally:
            incoming.discard()

    assert [publish(b""), publish(b"s" * 64), publish(b"t" * 64), publish(b"")] == [b"", *[b"s" * 64] * 3]
    assert RevisionStore(tmp_path).newest_first()[0].revision == store.newest_first()[0].revision
    with pytest.raises(PacelineError) as refusal:
        publish(b"short")
    assert refusal.value.reason is Reason.MALFORMED
    (store.newest_first()[0].folder / "manifest.sig").write_bytes(b"cut")
    assert RevisionStore(tmp_path).newest_first() == [], "a damaged one is left out"


async def test_watchers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paceline.trainer.watchers.MAX_WATCHERS", 1)
    watchers = Watchers()
    with watchers.watch("a"), pytest.raises(PacelineError) as refusal, watchers.watch("a"):
        pass
    assert refusal.value.reason is Reason.OVERLOADED
    with watchers.watch("a"):
        pass


def test_the_id_is_the_one_of_the_contract(tmp_path: Path) -> None:
    stored = put(RevisionStore(tmp_path), {"f": b"x"})
    assert stored.revision_id == revision_id(manifest_for({"f": b"x"}))
    assert json.loads((stored.folder / "record.json").read_text()) == {"published_unix_s": stored.published_unix_s}
