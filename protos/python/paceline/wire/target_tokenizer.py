"""The target's tokenizer, fetched from its verifier, so that a drafter with another one can translate.

Everything is in memory, within bounds, and vouched for: each file by its SHA-256 in the manifest, the manifest by the
hash that Welcome names. Nothing of it is run: `tokenizer.json` is data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from paceline.v1 import types_pb2, verifier_pb2, verifier_pb2_grpc
from paceline.wire.errors import PacelineError, Reason, out_of_range

MAX_FILES = 64
MAX_BYTES = 64 * 1024 * 1024  # of all files together
MAX_PATH = 200
FETCH_S = 60.0
TOKENIZER_JSON = "tokenizer.json"


async def fetch_tokenizer(
    stub: verifier_pb2_grpc.VerifierStub, tokenizer_hash: str, timeout_s: float = FETCH_S
) -> dict[str, bytes]:
    """The files of the target's tokenizer by path, e.g. `tokenizer.json` and `tokenizer_config.json`.

    Args:
        stub: of the verifier.
        tokenizer_hash: what its Welcome says.
        timeout_s: for all of it.

    Raises:
        PacelineError: HASH_MISMATCH for another tokenizer or files that aren't what the manifest says; MALFORMED or
            OUT_OF_RANGE for a verifier that breaks the rules.
        grpc.aio.AioRpcError: the call failed.
    """
    parcel = Parcel(tokenizer_hash)
    call = stub.GetTokenizer(verifier_pb2.GetTokenizerRequest(), timeout=timeout_s)
    try:
        async for message in call:
            parcel.take(message)
    finally:
        call.cancel()  # of a call that is over this is nothing
    return parcel.files()


def tokenizer_json(files: Mapping[str, bytes]) -> str:
    """The text of `tokenizer.json`. Raises VOCABULARY_MISMATCH if there is none, MALFORMED if it isn't text."""
    content = files.get(TOKENIZER_JSON)
    if content is None:
        raise PacelineError(
            Reason.VOCABULARY_MISMATCH,
            f"the target's tokenizer has no {TOKENIZER_JSON}, so no other vocabulary can be compared with it; use a "
            "drafter that works on the target's token ids",
            field=TOKENIZER_JSON,
        )
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _malformed(TOKENIZER_JSON, f"is no UTF-8 text from byte {error.start} on") from error


class Parcel:
    """Puts the messages of one GetTokenizer call together, without the call.

    Args:
        tokenizer_hash: that it must have.
    """

    def __init__(self, tokenizer_hash: str) -> None:
        self._tokenizer_hash = tokenizer_hash
        self._manifest: list[types_pb2.FileInfo] | None = None
        self._contents: list[bytearray] = []

    def take(self, message: verifier_pb2.GetTokenizerResponse) -> None:
        """The next message. Raises HASH_MISMATCH, MALFORMED or OUT_OF_RANGE."""
        kind = message.WhichOneof("part")
        if self._manifest is None:
            if kind != "manifest":
                raise _malformed("part", f"is {kind}; the first message must be manifest")
            files = list(message.manifest.files)
            _check_manifest(files, self._tokenizer_hash)
            self._manifest = files
        elif kind == "chunk":
            self._append(self._manifest, message.chunk)
        else:
            raise _malformed("part", f"is {kind}; after the manifest there are chunks only")

    def files(self) -> dict[str, bytes]:
        """What has come, when the call is over. Raises MALFORMED if something is missing."""
        if self._manifest is None:
            raise _malformed("part", "is missing: the verifier sent nothing")
        self._open_next(self._manifest)
        if len(self._contents) < len(self._manifest) or not self._is_full(self._manifest):
            raise _malformed("chunk", f"is missing: the stream ended within file {max(1, len(self._contents))}")
        return {file.path: bytes(content) for file, content in zip(self._manifest, self._contents, strict=True)}

    def _append(self, manifest: Sequence[types_pb2.FileInfo], chunk: bytes) -> None:
        self._open_next(manifest)
        if self._is_full(manifest):
            raise _malformed("chunk", "comes after the last file's end")
        file, content = manifest[len(self._contents) - 1], self._contents[-1]
        if len(content) + len(chunk) > file.size:
            raise _malformed("chunk", f"goes beyond the {file.size} bytes of {file.path!r}")
        content += chunk
        if len(content) == file.size:
            self._check_content(file, content)

    def _open_next(self, manifest: Sequence[types_pb2.FileInfo]) -> None:
        """Goes on to the file that the next chunk belongs to; empty files have none."""
        while len(self._contents) < len(manifest) and self._is_full(manifest):
            self._contents.append(bytearray())
            file = manifest[len(self._contents) - 1]
            if not file.size:
                self._check_content(file, b"")

    def _is_full(self, manifest: Sequence[types_pb2.FileInfo]) -> bool:
        """Whether the current file, if there is one, is complete."""
        return not self._contents or len(self._contents[-1]) == manifest[len(self._contents) - 1].size

    @staticmethod
    def _check_content(file: types_pb2.FileInfo, content: bytes | bytearray) -> None:
        if hashlib.sha256(content).digest() != file.sha256:
            raise _mismatch(f"tokenizer file {file.path!r}", hashlib.sha256(content).hexdigest(), file.sha256.hex())


def _check_manifest(files: Sequence[types_pb2.FileInfo], tokenizer_hash: str) -> None:
    if not 0 < len(files) <= MAX_FILES:
        raise out_of_range("manifest.files", f"{len(files)} entries long", f"1 to {MAX_FILES} entries")
    whole = hashlib.sha256()
    for file in files:
        _check_path(file.path)
        if len(file.sha256) != hashlib.sha256().digest_size:
            raise out_of_range("manifest.files.sha256", f"{len(file.sha256)} bytes long", "32 bytes")
        whole.update(file.path.encode() + b"\0" + file.sha256)
    if len({file.path for file in files}) < len(files):
        raise _malformed("manifest.files", "names a file twice")
    size = sum(file.size for file in files)
    if size > MAX_BYTES:
        raise out_of_range("manifest.files", f"{size} bytes in all", f"at most {MAX_BYTES}")
    if whole.hexdigest() != tokenizer_hash:
        raise _mismatch("the tokenizer", whole.hexdigest(), tokenizer_hash)


def _check_path(path: str) -> None:
    """Relative, with forward slashes and plain names, so that whoever writes it to a folder stays within it."""
    if len(path) > MAX_PATH:
        raise out_of_range("manifest.files.path", f"{len(path)} characters long", f"at most {MAX_PATH} characters")
    plain = path.isprintable() and not set(path) & set('\\:*?"<>|')
    if not plain or any(part in ("", ".", "..") for part in path.split("/")):
        raise _malformed("manifest.files.path", f"is {path!r}; it must be relative and name a file below a folder")


def _malformed(field: str, what: str) -> PacelineError:
    return PacelineError(Reason.MALFORMED, f"{field} {what}; use another verifier, or report it as a bug", field=field)


def _mismatch(what: str, found: str, expected: str) -> PacelineError:
    return PacelineError(
        Reason.HASH_MISMATCH,
        f"{what} has the SHA-256 {found[:16]}…; it must be {expected[:16]}…; the verifier may have been restarted with "
        "another model: connect again",
        field="sha256",
        value=found,
        limit=expected,
    )
