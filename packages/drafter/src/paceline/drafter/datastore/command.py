"""The `index` command: makes a datastore for the strategies `retrieval` and `hierarchy`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
from pydantic import Field, model_validator

from paceline.drafter.datastore.build import Encoder, tokenize, write
from paceline.v1 import verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError
from paceline.wire.settings import ClientSettings, StartupError
from paceline.wire.status import from_rpc_error
from paceline.wire.target_tokenizer import fetch_tokenizer, tokenizer_json

REPORT_EVERY_S = 0.2
GET_MODEL_S = 30.0


class IndexSettings(ClientSettings):
    """Makes a datastore of text files, for the tokenizer of a verifier."""

    text: list[Path]
    """UTF-8 file to index; --text may be repeated."""
    out: Path
    """Folder to make; it must not exist. Give it to 'serve' as --datastore."""
    verifier: str = ""
    """host:port of a verifier, whose tokenizer is used."""
    tokenizer: Path | None = None
    """Instead of --verifier: a tokenizer.json; with --tokenizer-hash."""
    tokenizer_hash: str = Field(default="", max_length=200)
    """tokenizer_hash of the verifiers to draft for, as Verifier.GetModel tells it; with --tokenizer."""

    @model_validator(mode="after")
    def _one_source(self) -> IndexSettings:
        if bool(self.verifier) == bool(self.tokenizer) or bool(self.tokenizer) != bool(self.tokenizer_hash):
            raise ValueError("give either --verifier, or both --tokenizer and --tokenizer-hash")
        return self


def index(settings: IndexSettings) -> int:
    """Makes the datastore; prints its folder."""
    if settings.out.exists():
        raise StartupError(f"--out {settings.out} exists; choose a folder that doesn't")
    progress = Progress(time.monotonic)
    target = _target(settings)
    try:
        tokens = tokenize(settings.text, _encoder(target.tokenizer_json), progress)
        manifest = write(tokens, target.content_hash, settings.out, progress)
    except PacelineError as error:
        raise StartupError(error.message) from error
    except OSError as error:
        raise StartupError(f"{error.filename or settings.out}: {error.strerror}") from error
    finally:
        progress.end()
    print(f"{settings.out}: {manifest.num_tokens} tokens of {len(settings.text)} files")
    return 0


class Progress:
    """One line on standard error, if that is a terminal."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._shown_s = clock()
        self._visible = sys.stderr.isatty()
        self._open = False

    def __call__(self, stage: str, share: float) -> None:
        now_s = self._clock()
        if self._visible and now_s - self._shown_s >= REPORT_EVERY_S:
            self._shown_s = now_s
            self._open = True
            print(f"\r{stage:12} {share:4.0%}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._open:
            print(file=sys.stderr)


@dataclass(frozen=True, slots=True)
class TargetTokenizer:
    """content_hash is what the verifier's Welcome names; tokenizer_json the content of that file."""

    content_hash: str
    tokenizer_json: str


def _target(settings: IndexSettings) -> TargetTokenizer:
    if settings.tokenizer is None:
        return _fetch(settings.verifier, settings)
    try:
        return TargetTokenizer(settings.tokenizer_hash, settings.tokenizer.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"--tokenizer {settings.tokenizer}: {error}") from error


def _fetch(address: str, settings: ClientSettings) -> TargetTokenizer:
    """Asks a verifier."""

    async def ask() -> TargetTokenizer:
        async with connect(address, settings) as channel:
            stub = verifier_pb2_grpc.VerifierStub(channel)
            model = await stub.GetModel(verifier_pb2.GetModelRequest(), timeout=GET_MODEL_S)
            return TargetTokenizer(
                model.tokenizer_hash, tokenizer_json(await fetch_tokenizer(stub, model.tokenizer_hash))
            )

    try:
        return asyncio.run(ask())
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        raise StartupError(f"verifier {address}: {refusal.message if refusal else error.details()}") from error
    except PacelineError as error:
        raise StartupError(f"verifier {address}: {error.message}") from error


def _encoder(tokenizer_json: str) -> Encoder:
    try:
        from tokenizers import Tokenizer  # late: only this command needs it
    except ImportError as error:
        raise StartupError("'index' needs the Python package tokenizers; install it") from error
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
        tokenizer.no_truncation()
        tokenizer.no_padding()
    except Exception as error:  # it raises plain Exception for whatever is wrong
        raise StartupError(f"the tokenizer can't be made of its tokenizer.json: {str(error)[:200]}") from error

    class TokenizersEncoder:
        def encode(self, text: str) -> list[int]:
            ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
            return ids

    return TokenizersEncoder()
