"""The target's tokenizer: whole and vouched for, or refused."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.v1 import types_pb2, verifier_pb2, verifier_pb2_grpc
from paceline.wire import target_tokenizer as module
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.target_tokenizer import Parcel, fetch_tokenizer, tokenizer_json

FILES = {"added_tokens.json": b"", "sub/tokenizer.model": bytes(range(256)) * 9, "tokenizer.json": '{"ä": 1}'.encode()}
Messages = list[verifier_pb2.GetTokenizerResponse]


def infos(files: dict[str, bytes]) -> list[types_pb2.FileInfo]:
    return [
        types_pb2.FileInfo(path=path, size=len(content), sha256=hashlib.sha256(content).digest())
        for path, content in files.items()
    ]


def hash_of(manifest: list[types_pb2.FileInfo]) -> str:
    return hashlib.sha256(b"".join(file.path.encode() + b"\0" + file.sha256 for file in manifest)).hexdigest()


def manifest_of(manifest: list[types_pb2.FileInfo]) -> verifier_pb2.GetTokenizerResponse:
    return verifier_pb2.GetTokenizerResponse(
        manifest=verifier_pb2.TokenizerManifest(tokenizer_hash=hash_of(manifest), files=manifest)
    )


def chunk_of(content: bytes) -> verifier_pb2.GetTokenizerResponse:
    return verifier_pb2.GetTokenizerResponse(chunk=content)


def messages_of(files: dict[str, bytes], chunk_bytes: int = 1000) -> Messages:
    """As a verifier sends them."""
    chunks = [
        chunk_of(content[start : start + chunk_bytes])
        for content in files.values()
        for start in range(0, len(content), chunk_bytes)
    ]
    return [manifest_of(infos(files)), *chunks]


def received(messages: Messages, tokenizer_hash: str) -> dict[str, bytes]:
    parcel = Parcel(tokenizer_hash)
    for message in messages:
        parcel.take(message)
    return parcel.files()


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.binary(max_size=40), min_size=1), st.integers(1, 50))
def test_what_is_sent_in_pieces_comes_out_whole(files: dict[str, bytes], chunk_bytes: int) -> None:
    assert received(messages_of(files, chunk_bytes), hash_of(infos(files))) == files


@given(st.data())
def test_whatever_happens_to_the_messages_the_files_are_right_or_refused(data: Any) -> None:
    messages = messages_of(FILES, 700)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(messages) - 1)) if messages else 0
        how = data.draw(st.sampled_from(["drop", "twice", "cut", "flip"]))
        if not messages:
            break
        elif how == "drop":
            del messages[at]
        elif how == "twice":
            messages.insert(at, messages[at])
        else:
            wire = bytearray(messages[at].SerializeToString())
            if how == "cut":
                del wire[data.draw(st.integers(0, len(wire))) :]
            elif wire:
                wire[data.draw(st.integers(0, len(wire) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            with contextlib.suppress(Exception):  # what doesn't parse never arrives
                messages[at] = verifier_pb2.GetTokenizerResponse.FromString(bytes(wire))
    with contextlib.suppress(PacelineError):
        assert received(messages, hash_of(infos(FILES))) == FILES


def manifest_with(**fields: Any) -> Messages:
    (info,) = infos({"tokenizer.json": b"x"})
    for name, value in fields.items():
        setattr(info, name, value)
    return [manifest_of([info]), chunk_of(b"x")]


REFUSED = {
    "nothing": ([], Reason.MALFORMED),
    "a chunk first": ([chunk_of(b"x")], Reason.MALFORMED),
    "no part": ([verifier_pb2.GetTokenizerResponse()], Reason.MALFORMED),
    "two manifests": ([*manifest_with()[:1], *manifest_with()], Reason.MALFORMED),
    "no end": (manifest_with()[:1], Reason.MALFORMED),
    "too much": ([*manifest_with(), chunk_of(b"x")], Reason.MALFORMED),
    "beyond a file's end": ([manifest_with()[0], chunk_of(b"xy")], Reason.MALFORMED),
    "other content": ([manifest_with()[0], chunk_of(b"y")], Reason.HASH_MISMATCH),
    "other content of no bytes": (manifest_with(size=0)[:1], Reason.HASH_MISMATCH),
    "no files": ([manifest_of([])], Reason.OUT_OF_RANGE),
    "many files": ([manifest_of(infos({str(index): b"" for index in range(65)}))], Reason.OUT_OF_RANGE),
    "twice the same": ([manifest_of(infos({"a": b""}) * 2)], Reason.MALFORMED),
    "large": (manifest_with(size=module.MAX_BYTES + 1), Reason.OUT_OF_RANGE),
    "a short hash": (manifest_with(sha256=b"short"), Reason.OUT_OF_RANGE),
    "a long path": (manifest_with(path="x" * 201), Reason.OUT_OF_RANGE),
    **{
        f"path {path!r}": (manifest_with(path=path), Reason.MALFORMED)
        for path in ("", "/etc/x", "../x", "a/../x", "a//x", "./x", "a/", "a\\x", "C:x", "a\0", "a\nb")
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_verifier_that_breaks_the_rules_is_refused(name: str) -> None:
    messages, reason = REFUSED[name]
    is_manifest = bool(messages) and messages[0].HasField("manifest")
    with pytest.raises(PacelineError) as refused:
        received(messages, messages[0].manifest.tokenizer_hash if is_manifest else "")
    assert refused.value.reason is reason
    assert refused.value.field


def test_another_tokenizer_than_welcome_names_is_refused_before_its_files_come() -> None:
    parcel = Parcel(hash_of(infos({"other": b""})))
    with pytest.raises(PacelineError, match="connect again") as refused:
        parcel.take(messages_of(FILES)[0])
    assert refused.value.reason is Reason.HASH_MISMATCH


def test_the_text_of_tokenizer_json() -> None:
    assert tokenizer_json(FILES) == '{"ä": 1}'
    for files, reason in (({}, Reason.VOCABULARY_MISMATCH), ({"tokenizer.json": b"\xff"}, Reason.MALFORMED)):
        with pytest.raises(PacelineError) as refused:
            tokenizer_json(files)
        assert refused.value.reason is reason


@dataclass
class FakeVerifier(verifier_pb2_grpc.VerifierServicer):
    messages: Messages
    num_sent: int = 0
    ended: list[str] = field(default_factory=list)

    async def GetTokenizer(self, request: Any, context: Any) -> AsyncIterator[verifier_pb2.GetTokenizerResponse]:
        try:
            for message in self.messages:
                yield message
                self.num_sent += 1
        finally:
            self.ended.append("yes")


@contextlib.asynccontextmanager
async def stub_of(verifier: FakeVerifier) -> AsyncIterator[Any]:
    server = grpc.aio.server()
    verifier_pb2_grpc.add_VerifierServicer_to_server(verifier, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield verifier_pb2_grpc.VerifierStub(channel)
    await server.stop(None)


async def test_a_tokenizer_is_fetched_over_a_socket() -> None:
    files = {**FILES, "vocab.txt": bytes(range(256)) * 8192}  # 2 MB
    async with stub_of(FakeVerifier(messages_of(files, 256 * 1024))) as stub:
        assert await fetch_tokenizer(stub, hash_of(infos(files))) == files


async def test_a_verifier_that_never_stops_sending_is_left() -> None:
    verifier = FakeVerifier([manifest_with()[0], *[chunk_of(b"x" * 100_000)] * 100_000])
    async with stub_of(verifier) as stub:
        with pytest.raises(PacelineError, match="goes beyond the 1 bytes"):
            await fetch_tokenizer(stub, verifier.messages[0].manifest.tokenizer_hash)
        async with asyncio.timeout(20.0):
            while not verifier.ended:
                await asyncio.sleep(0.005)
    assert verifier.num_sent < 1000


async def test_a_verifier_that_sends_nothing_or_is_not_there_is_an_error() -> None:
    async with stub_of(FakeVerifier([])) as stub:
        with pytest.raises(PacelineError, match="sent nothing"):
            await fetch_tokenizer(stub, "")
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await fetch_tokenizer(verifier_pb2_grpc.VerifierStub(channel), "", timeout_s=0.2)
