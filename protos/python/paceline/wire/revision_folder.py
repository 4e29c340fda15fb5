"""A folder with a drafter's model, of which every byte is vouched for.

    manifest.json         the manifest in canonical form: what it is of, and size and SHA-256 of every other file
    manifest.sig          ed25519 over manifest.json, 64 bytes, if it is signed; the manifest doesn't list it
    model.json            what the graph takes and gives: a card of `model_card`
    model.onnx            the graph with its weights
    fuse.onnx             a feature head's second graph: the target's features in, the head's hidden state out
    vocabulary.bin        a cut vocabulary: the target's id of each of the model's, uint32, little-endian
    tokenizer.json        the model's tokenizer, unless its vocabulary is cut from the target's
    weights.safetensors   the weights to train on from, if they were not too large

The manifest is the one of trainers (`RevisionManifest`), so the SHA-256 of manifest.json is the revision's id, and a
folder that a trainer hands out is read like one that `paceline-drafter export` wrote. What it says is not trusted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from paceline.v1 import trainer_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.model_card import LanguageModelCard, parse_card
from paceline.wire.revision import MANIFEST, manifest_json, parse_manifest, revision_id, unusable

FORMAT = "onnx"
SIGNATURE, CARD, GRAPH, FUSE = "manifest.sig", "model.json", "model.onnx", "fuse.onnx"
VOCABULARY, TOKENIZER, WEIGHTS = "vocabulary.bin", "tokenizer.json", "weights.safetensors"
SIGNATURE_BYTES = 64
_MAX_GRAPH = (1 << 31) - 1  # one protobuf message can't be larger
# In bytes.
LIMITS = {
    MANIFEST: 1 << 20,
    CARD: 1 << 16,
    GRAPH: _MAX_GRAPH,
    FUSE: _MAX_GRAPH,
    VOCABULARY: 4 << 21,
    TOKENIZER: 1 << 26,
    WEIGHTS: 1 << 33,
}


@dataclass(frozen=True, slots=True)
class Revision:
    """A folder whose manifest and card have been read and checked; its other files are checked as they are read."""

    folder: Path
    manifest: trainer_pb2.RevisionManifest
    card: LanguageModelCard

    @property
    def revision_id(self) -> str:
        return revision_id(self.manifest)

    def has(self, path: str) -> bool:
        """Whether the manifest lists such a file."""
        return any(file.path == path for file in self.manifest.files)

    def read(self, path: str) -> bytes:
        """A file, as the manifest has it. Raises HASH_MISMATCH if it isn't, UNUSABLE_REVISION if it isn't there."""
        return _read_listed(self.folder, self.manifest, path)


def open_revision(folder: Path) -> Revision:
    """Reads what a folder says of itself.

    Raises:
        PacelineError: HASH_MISMATCH for a damaged file; UNUSABLE_REVISION for a folder that isn't a revision, is of
            another format or version, or is beyond the bounds here.
    """
    manifest = parse_manifest(_read(folder, MANIFEST, LIMITS[MANIFEST]))
    if manifest.format != FORMAT:
        raise unusable("format", manifest.format[:80], f"{FORMAT!r}; take a revision of that format")
    return Revision(folder, manifest, parse_card(_read_listed(folder, manifest, CARD)))


def signature_in(folder: Path) -> bytes:
    """What lies beside the manifest as its signature; empty if nothing does. Nobody has checked it."""
    try:
        return _read(folder, SIGNATURE, SIGNATURE_BYTES)
    except PacelineError:
        return b""


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `out` when the block ends, on disk and whole. If it fails nothing is left.

    Raises OSError, also if `out` exists by then and isn't an empty folder.
    """
    parent = out.absolute().parent
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=f".{out.name}-"))
    try:
        yield folder
        folder.chmod(0o755)
        for path in (*folder.rglob("*"), folder):
            _sync(path)
        folder.replace(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    _sync(parent)


def seal(folder: Path, manifest: trainer_pb2.RevisionManifest) -> trainer_pb2.RevisionManifest:
    """Writes manifest.json for the files that are there, anew if it is there; returns it with sizes and hashes."""
    sealed = trainer_pb2.RevisionManifest()
    sealed.CopyFrom(manifest)
    del sealed.files[:]
    beside = (folder / MANIFEST, folder / SIGNATURE)
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path not in beside):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        name = path.relative_to(folder).as_posix()
        sealed.files.append(types_pb2.FileInfo(path=name, size=path.stat().st_size, sha256=digest))
    content = manifest_json(sealed).encode()
    parse_manifest(content)  # what can't be read must not be written
    (folder / MANIFEST).write_bytes(content)
    return sealed


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_listed(folder: Path, manifest: trainer_pb2.RevisionManifest, path: str) -> bytes:
    listed = [file for file in manifest.files if file.path == path]
    if len(listed) != 1:
        raise unusable(MANIFEST, f"without a file {path}", "with one; take a revision that was exported for drafters")
    expected = listed[0]
    if expected.size > LIMITS[path]:
        raise unusable(path, f"{expected.size} bytes", f"at most {LIMITS[path]} bytes")
    content = _read(folder, path, expected.size)
    found = hashlib.sha256(content).digest()
    if len(content) != expected.size or found != expected.sha256:
        raise PacelineError(
            Reason.HASH_MISMATCH,
            f"{path} is not what {MANIFEST} says: it has SHA-256 {found.hex()} and not {expected.sha256.hex()[:64]}; "
            "fetch or export the revision again",
            field=path,
            value=found.hex(),
            limit=expected.sha256.hex(),
        )
    return content


def _read(folder: Path, path: str, limit: int) -> bytes:
    """At most one byte more than the limit; what isn't a plain file is refused and not waited for."""
    try:
        descriptor = os.open(folder / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise unusable(path, "no plain file", "one")
            if path == MANIFEST and status.st_size > limit:
                raise unusable(path, f"{status.st_size} bytes", f"at most {limit} bytes")
            return file.read(limit + 1)
    except OSError as error:
        raise unusable(path, f"unreadable ({error.strerror})", "a file in the revision's folder") from error
