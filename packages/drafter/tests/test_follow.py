"""Following a line: what is fetched, what is refused and why, and a trainer that comes and goes."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_trainer import CARD, LINE, FakeTrainer, make_folder, with_file

from paceline.drafter.revisions import follow
from paceline.drafter.revisions.cache import MAX_REVISIONS, Arrival, RevisionCache
from paceline.drafter.revisions.check import Terms, check_announced, check_successor
from paceline.drafter.revisions.follow import Follower, Proposal, Unfit, first_revision
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.model_card import FeatureHeadCard
from paceline.wire.revision import revision_id, unusable
from paceline.wire.revision_folder import open_revision
from paceline.wire.settings import ClientSettings
from paceline.wire.signature import new_key, signer, verifier

DEADLINE_S = 20.0
ANYTHING = Terms(LINE)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(follow, "MAX_PAUSE_S", 0.1)


class Taker:
    """Takes what it is offered, unless the test says otherwise. `holds`: for ever; `reads`: it reads the graph."""

    def __init__(self) -> None:
        self.taken: list[Proposal] = []
        self.ended: asyncio.Queue[str] = asyncio.Queue()
        self.error: Exception | None = None
        self.holds = self.reads = False

    async def __call__(self, proposal: Proposal) -> None:
        self.taken.append(proposal)
        try:
            if self.holds:
                await asyncio.Event().wait()
            if self.error is not None:
                raise self.error
            if self.reads:
                proposal.revision.read("model.onnx")
        finally:
            self.ended.put_nowait(proposal.revision.revision_id)

    async def next(self) -> str:
        async with asyncio.timeout(DEADLINE_S):
            return await self.ended.get()


@asynccontextmanager
async def following(
    trainer: FakeTrainer, cache: Path, at_work: str = "", terms: Terms = ANYTHING
) -> AsyncIterator[tuple[Follower, Taker]]:
    taker = Taker()
    follower = Follower(trainer.address, ClientSettings(), terms, RevisionCache(cache), taker, at_work, lambda: 0.5)
    task = asyncio.create_task(follower.run())
    try:
        yield follower, taker
        assert not task.done(), "a follower goes on for ever"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_what_is_published_is_fetched_checked_and_taken_once(tmp_path: Path) -> None:
    trainer, cache = FakeTrainer(), tmp_path / "cache"
    async with trainer.serving(), following(trainer, cache) as (follower, taker):
        first = trainer.publish(make_folder(tmp_path / "1"))
        assert await taker.next() == first
        second = trainer.publish(make_folder(tmp_path / "2", graph=b"g" * 250_000))
        assert await taker.next() == second
        folder = taker.taken[1].revision.folder
        assert names_in(folder) == {"manifest.json", "model.json", "model.onnx", "tokenizer.json"}, "not the weights"
        revision = open_revision(folder)
        assert (revision.revision_id, revision.read("model.onnx")) == (second, b"g" * 250_000)
        assert not any(proposal.returns for proposal in taker.taken)
        async with asyncio.timeout(DEADLINE_S):
            while follower.at_work != second:
                await asyncio.sleep(0.005)
    async with trainer.serving(), following(trainer, cache) as (_, again):
        assert await again.next() == second
        assert trainer.num_fetches == 2, "what is in the cache isn't fetched"


async def test_a_trainer_that_dies_is_dialled_again_and_what_broke_off_is_fetched_anew(tmp_path: Path) -> None:
    trainer = FakeTrainer()
    async with trainer.serving():
        first = trainer.publish(make_folder(tmp_path / "1"))
    async with following(trainer, tmp_path / "cache") as (_, taker):
        await asyncio.sleep(0.05)
        async with trainer.serving():
            assert await taker.next() == first
        second = trainer.publish(make_folder(tmp_path / "2", graph=b"g" * 900_000))
        trainer.stops_after = 5
        async with trainer.serving():
            assert await taker.next() == second
    assert trainer.num_fetches == 3
    assert names_in(tmp_path / "cache") == {first, second}, "nothing is left of what broke off"


async def test_a_withdrawn_revision_gives_way_to_the_newest_that_is_left(tmp_path: Path) -> None:
    trainer = FakeTrainer()
    async with trainer.serving(), following(trainer, tmp_path / "cache") as (follower, taker):
        old = trainer.publish(make_folder(tmp_path / "1"))
        assert await taker.next() == old
        new = trainer.publish(make_folder(tmp_path / "2", graph=b"2"))
        assert await taker.next() == new
        trainer.withdraw(new)
        assert await taker.next() == old
        assert taker.taken[-1].returns, "it was at work before"
        taker.holds = True
        third = trainer.publish(make_folder(tmp_path / "3", graph=b"3"))
        while len(taker.taken) < 4:
            await asyncio.sleep(0.01)
        trainer.withdraw(third)
        assert await taker.next() == third, "a trial of what was withdrawn ends"
        taker.holds = False
        fourth = trainer.publish(make_folder(tmp_path / "4", graph=b"4"))
        assert await taker.next() == fourth
        assert not taker.taken[-1].returns
        assert follower.at_work in (old, fourth)
    assert trainer.withdrawals.empty()


async def test_what_is_unfit_is_withdrawn_with_the_reason_and_not_tried_again(tmp_path: Path) -> None:
    trainer = FakeTrainer()
    async with trainer.serving(), following(trainer, tmp_path / "cache", "0" * 64) as (follower, taker):
        taker.error = Unfit("0.9 against 1.1")
        name = trainer.publish(make_folder(tmp_path / "1"))
        async with asyncio.timeout(DEADLINE_S):
            request = await trainer.withdrawals.get()
        assert (request.revision_id, request.reason) == (name, "0.9 against 1.1")
        assert follower.at_work == "0" * 64
        assert len(taker.taken) == 1


@pytest.mark.parametrize("error", [unusable("graph", "bad", "good"), RuntimeError("bug")])
async def test_what_cannot_be_put_to_work_is_refused_and_reported_nowhere_else(
    tmp_path: Path, error: Exception
) -> None:
    trainer = FakeTrainer()
    async with trainer.serving(), following(trainer, tmp_path / "cache") as (_, taker):
        taker.error = error
        name = trainer.publish(make_folder(tmp_path / "1"))
        assert await taker.next() == name
        trainer.tell(trainer.revisions[name])
        taker.error = None
        other = trainer.publish(make_folder(tmp_path / "2", graph=b"2"))
        assert await taker.next() == other, "the bad one is not tried again"
    assert trainer.withdrawals.empty()


async def test_a_damaged_file_of_the_cache_is_fetched_again_and_one_of_the_trainer_refused(tmp_path: Path) -> None:
    trainer, cache = FakeTrainer(), tmp_path / "cache"
    async with trainer.serving():
        async with following(trainer, cache) as (_, taker):
            name = trainer.publish(make_folder(tmp_path / "1"))
            assert await taker.next() == name
        (cache / name / "model.onnx").write_bytes(b"other")

        async with following(trainer, cache) as (_, taker):
            taker.reads = True
            assert [await taker.next(), await taker.next()] == [name, name]
            assert taker.taken[-1].revision.read("model.onnx") == b"graph"
        (tmp_path / "1" / "model.onnx").write_bytes(b"GRAPH")
        (cache / name / "manifest.json").write_bytes(b"{}")
        num_fetches = trainer.num_fetches
        async with following(trainer, cache) as (_, taker):
            while trainer.num_fetches == num_fetches:
                await asyncio.sleep(0.01)
            other = trainer.publish(make_folder(tmp_path / "2", graph=b"2"))
            assert await taker.next() == other
            assert name not in names_in(cache)
            assert [item.revision.revision_id for item in taker.taken] == [other]


async def test_only_what_is_signed_by_the_right_key_is_fetched(tmp_path: Path) -> None:
    for name in ("right", "wrong"):
        private, public = new_key()
        (tmp_path / name).write_bytes(private)
        (tmp_path / f"{name}.pub").write_bytes(public)
    trainer, terms = FakeTrainer(), Terms(LINE, verifier(tmp_path / "right.pub"))
    folders = [make_folder(tmp_path / str(number), graph=b"%d" % number) for number in range(3)]
    manifests = [open_revision(folder).manifest for folder in folders]
    async with trainer.serving(), following(trainer, tmp_path / "cache", terms=terms) as (_, taker):
        trainer.publish(folders[0])
        trainer.publish(folders[1], signer(tmp_path / "wrong")(manifests[1]))
        good = trainer.publish(folders[2], signer(tmp_path / "right")(manifests[2]))
        assert await taker.next() == good
        assert trainer.num_fetches == 1
        assert (taker.taken[0].revision.folder / "manifest.sig").exists()


async def test_the_first_revision_is_waited_for(tmp_path: Path) -> None:
    trainer = FakeTrainer()

    def make(take: follow.Take) -> Follower:
        cache = RevisionCache(tmp_path / "cache")
        return Follower(trainer.address, ClientSettings(), Terms(LINE), cache, take, "", lambda: 0.5)

    async with trainer.serving():
        waiting = asyncio.create_task(first_revision(make))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        name = trainer.publish(make_folder(tmp_path / "1"))
        async with asyncio.timeout(DEADLINE_S):
            assert (await waiting).revision_id == name


# Checks alone.


def announced(folder: Path) -> trainer_pb2.Revision:
    manifest = open_revision(folder).manifest
    return trainer_pb2.Revision(revision_id=revision_id(manifest), manifest=manifest)


def test_what_is_announced_must_be_of_the_line_and_what_its_id_says(tmp_path: Path) -> None:
    good = announced(make_folder(tmp_path / "good"))
    check_announced(good, Terms(LINE))
    wrong_id = trainer_pb2.Revision()
    wrong_id.CopyFrom(good)
    wrong_id.manifest.command = "another"
    long_name = with_file(good)
    long_name.manifest.model = "m" * 201
    of_another_format = with_file(good)
    of_another_format.manifest.format = "safetensors"
    of_another_format.revision_id = revision_id(of_another_format.manifest)
    for message, terms, reason in (
        (wrong_id, Terms(LINE), Reason.HASH_MISMATCH),
        (long_name, Terms(LINE), Reason.UNUSABLE_REVISION),
        (of_another_format, Terms(LINE), Reason.UNUSABLE_REVISION),
        (good, Terms("other"), Reason.UNUSABLE_REVISION),
    ):
        with pytest.raises(PacelineError) as refusal:
            check_announced(message, terms)
        assert refusal.value.reason is reason


HEAD = FeatureHeadCard(
    architecture="Head",
    vocab_size=10,
    max_length=100,
    num_layers=1,
    num_kv_heads=1,
    key_dim=2,
    value_dim=2,
    quantization="none",
    width=4,
    target_hidden_size=4,
    feature_layers=(1,),
)


@pytest.mark.parametrize(
    ("old", "new", "targets", "field"),
    [
        ({}, {}, (), ""),
        ({}, {"model": "m", "tokenizer_hash": "h"}, ("h", "other"), ""),
        ({"model": "m"}, {"model": "other"}, (), "model"),
        ({"tokenizer_hash": "h"}, {"tokenizer_hash": "other"}, (), "tokenizer_hash"),
        ({}, {"tokenizer_hash": "other"}, ("h",), "tokenizer_hash"),
        ({}, {"card": HEAD}, (), "model.json kind"),
        ({"card": HEAD}, {"card": replace(HEAD, width=8)}, (), ""),
        ({}, {"card": replace(CARD, cut_vocabulary=True)}, (), "kind"),
    ],
)
def test_what_takes_over_is_of_the_same_kind_for_the_same_target(
    tmp_path: Path, old: dict[str, Any], new: dict[str, Any], targets: tuple[str, ...], field: str
) -> None:
    kinds = {old.get("card", CARD).KIND}
    before, after = (open_revision(make_folder(tmp_path / name, **made)) for name, made in (("a", old), ("b", new)))
    if not field:
        check_successor(after, before, kinds, targets)
        return
    with pytest.raises(PacelineError) as refusal:
        check_successor(after, before, kinds, targets)
    assert (refusal.value.reason, refusal.value.field) == (Reason.UNUSABLE_REVISION, field)


# What arrives.


def message_of(files: dict[str, bytes], **sizes: int) -> trainer_pb2.Revision:
    manifest = trainer_pb2.RevisionManifest(drafter=LINE, format="onnx")
    for path, content in files.items():
        size = sizes.get(path.partition(".")[0], len(content))
        manifest.files.add(path=path, size=size, sha256=hashlib.sha256(content).digest())
    return trainer_pb2.Revision(revision_id=revision_id(manifest), manifest=manifest)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_no_path_of_a_manifest_is_written_but_those_a_drafter_knows(tmp_path: Path, chunk: int) -> None:
    evil = {"../evil": b"e" * 9, "/tmp/evil": b"x", "manifest.sig": b"s", "empty": b"", "model.onnx": b"graph"}
    cache = RevisionCache(tmp_path / "cache")
    arrival = cache.receive(message_of(evil))
    stream = b"".join(evil.values())
    for start in range(0, len(stream), chunk):
        arrival.write(stream[start : start + chunk])
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"model.onnx"}
    with pytest.raises(PacelineError, match=r"without a file model\.json"):
        arrival.place()
    arrival.discard()
    assert names_in(tmp_path / "cache") == set()


def arrive(arrival: Arrival, stream: bytes) -> None:
    arrival.write(stream)
    arrival.place()


@pytest.mark.parametrize(
    ("files", "stream", "reason"),
    [
        ({"model.onnx": b"ab"}, b"ax", Reason.HASH_MISMATCH),
        ({"model.onnx": b"ab"}, b"abc", Reason.MALFORMED),
        ({"model.onnx": b"ab"}, b"a", Reason.MALFORMED),
        ({"other": b"ab"}, b"ax", Reason.HASH_MISMATCH),
    ],
)
def test_bytes_that_are_not_the_manifests_are_refused(
    tmp_path: Path, files: dict[str, bytes], stream: bytes, reason: Reason
) -> None:
    arrival = RevisionCache(tmp_path).receive(message_of(files))
    with pytest.raises(PacelineError) as refusal:
        arrive(arrival, stream)
    assert refusal.value.reason is reason
    arrival.discard()
    assert names_in(tmp_path) == set()


def test_sizes_that_no_drafter_reads_are_refused_before_a_byte_comes(tmp_path: Path) -> None:
    for message in (message_of({"model.json": b""}, model=1 << 17), message_of({"big": b""}, big=9 << 30)):
        with pytest.raises(PacelineError) as refusal:
            RevisionCache(tmp_path).receive(message)
        assert refusal.value.reason is Reason.UNUSABLE_REVISION


def test_the_cache_keeps_those_used_last(tmp_path: Path) -> None:
    cache = RevisionCache(tmp_path / "cache")
    names = []
    for number in range(MAX_REVISIONS + 2):
        folder = make_folder(tmp_path / str(number), graph=b"%d" % number)
        names.append(open_revision(folder).revision_id)
        folder.rename(tmp_path / "cache" / names[-1])
    for age, name in enumerate(reversed(names)):
        os.utime(tmp_path / "cache" / name, (1000 - age, 1000 - age))
    assert cache.open(names[0]) is not None
    cache.prune()
    assert names_in(tmp_path / "cache") == {names[0], *names[-MAX_REVISIONS + 1 :]}
