"""The target's tokenizer, as its verifier hands it out."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass

import grpc
import grpc.aio

from paceline.v1 import verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.settings import ClientSettings, StartupError
from paceline.wire.status import from_rpc_error

MAX_BYTES = 256 * 1024 * 1024
MAX_FILES = 64
TIMEOUT_S = 60.0
TOKENIZER_JSON = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class TargetTokenizer:
    """content_hash is what the verifier's Welcome names; tokenizer_json the content of that file."""

    content_hash: str
    tokenizer_json: str


def fetch_tokenizer(address: str, settings: ClientSettings) -> TargetTokenizer:
    """Asks a verifier. Raises StartupError if it can't be had or isn't what its manifest says."""

    async def ask() -> TargetTokenizer:
        async with connect(address, settings) as channel:
            return await receive(verifier_pb2_grpc.VerifierStub(channel))

    try:
        return asyncio.run(ask())
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        raise StartupError(f"verifier {address}: {refusal.message if refusal else error.details()}") from error
    except PacelineError as error:
        raise StartupError(f"verifier {address}: {error.message}") from error


async def receive(verifier: verifier_pb2_grpc.VerifierStub) -> TargetTokenizer:
    """Raises OUT_OF_RANGE for too much, HASH_MISMATCH for other bytes than were announced, MALFORMED for neither."""
    manifest: verifier_pb2.TokenizerManifest | None = None
    content = bytearray()
    total = 0
    async for response in verifier.GetTokenizer(verifier_pb2.GetTokenizerRequest(), timeout=TIMEOUT_S):
        if manifest is None:
            manifest = response.manifest
            total = sum(file.size for file in manifest.files)
            if total > MAX_BYTES or len(manifest.files) > MAX_FILES:
                limit = f"at most {MAX_FILES} files and {MAX_BYTES} bytes"
                raise out_of_range("manifest.files", f"{len(manifest.files)} files, {total} bytes", limit)
            continue
        content += response.chunk
        if len(content) > total:
            raise out_of_range("chunk", "more bytes than announced", f"{total} bytes together")
    if manifest is None:
        raise PacelineError(Reason.MALFORMED, "it sent no tokenizer", field="manifest")
    return _checked(manifest, bytes(content))


def _checked(manifest: verifier_pb2.TokenizerManifest, content: bytes) -> TargetTokenizer:
    """The hash covers each file's path and SHA-256, in order, as the verifier computes it."""
    whole = hashlib.sha256()
    tokenizer_json: str | None = None
    start = 0
    for file in manifest.files:
        part = content[start : start + file.size]
        start += file.size
        if len(part) != file.size or hashlib.sha256(part).digest() != file.sha256:
            message = f"tokenizer file {file.path[:80]!r} is not what was announced"
            raise PacelineError(Reason.HASH_MISMATCH, message, field="chunk")
        whole.update(file.path.encode() + b"\0" + file.sha256)
        if file.path == TOKENIZER_JSON:
            tokenizer_json = part.decode(errors="strict")
    if whole.hexdigest() != manifest.tokenizer_hash:
        message = "the tokenizer's files do not have the hash that was announced"
        raise PacelineError(Reason.HASH_MISMATCH, message, field="tokenizer_hash")
    if tokenizer_json is None:
        message = f"its tokenizer has no {TOKENIZER_JSON}, so it can't be made here"
        raise PacelineError(Reason.VOCABULARY_MISMATCH, message, field="manifest.files")
    return TargetTokenizer(manifest.tokenizer_hash, tokenizer_json)
