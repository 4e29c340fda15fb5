"""A folder with a drafter's model, of which every byte is vouched for.

    manifest.json    the revision's manifest in canonical form: what it is of, and size and SHA-256 of every other file
    model.json       what the graph takes and gives: `Card`
    model.onnx       the graph with its weights
    tokenizer.json   the model's tokenizer

The manifest is the one of trainers (`RevisionManifest`), so the SHA-256 of manifest.json is the revision's id, and a
folder that a trainer hands out is read like one that `export` wrote. What a folder says is not trusted.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from paceline.v1 import trainer_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision import manifest_json, revision_id

FORMAT = "onnx"
CARD_VERSION = 1
MANIFEST, CARD, GRAPH, TOKENIZER = "manifest.json", "model.json", "model.onnx", "tokenizer.json"
# In bytes. A graph is one protobuf message, which can't be larger.
LIMITS = {MANIFEST: 1 << 20, CARD: 1 << 16, GRAPH: (1 << 31) - 1, TOKENIZER: 1 << 26}
MAX_FILES = 256
MAX_METRICS = 64
MAX_TEXT = {"drafter": 200, "parent": 200, "model": 200, "tokenizer_hash": 200, "format": 200, "command": 4096}
QUANTIZATIONS = ("none", "int8")


@dataclass(frozen=True, slots=True)
class Card:
    """What a graph takes and gives, see `onnx_lm`.

    Attributes:
        architecture: transformers' class that it was made from.
        num_kv_heads, key_dim, value_dim: of each layer's keys and values.
        max_length: positions it may be given.
        quantization: of its weights, one of QUANTIZATIONS.
        version: of this description.
    """

    architecture: str
    vocab_size: int
    max_length: int
    num_layers: int
    num_kv_heads: int
    key_dim: int
    value_dim: int
    quantization: str
    version: int = CARD_VERSION


_BOUNDS = {
    "vocab_size": 1 << 21,
    "max_length": 1 << 20,
    "num_layers": 256,
    "num_kv_heads": 256,
    "key_dim": 1024,
    "value_dim": 1024,
}
MAX_ROW_BYTES = 1 << 19  # 512 MiB of cache for a text of 1,024 tokens: more than any model is worth drafting with


@dataclass(frozen=True, slots=True)
class Revision:
    """A folder whose manifest and card have been read and checked; its other files are checked as they are read."""

    folder: Path
    manifest: trainer_pb2.RevisionManifest
    card: Card

    @property
    def revision_id(self) -> str:
        return revision_id(self.manifest)

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
        raise _unusable("format", manifest.format[:80], f"{FORMAT!r}; take a revision of that format")
    return Revision(folder, manifest, parse_card(_read_listed(folder, manifest, CARD)))


def parse_manifest(content: bytes) -> trainer_pb2.RevisionManifest:
    """The inverse of `wire.revision.manifest_json`, within bounds. Raises UNUSABLE_REVISION."""
    try:
        document = json.loads(content.decode("ascii"))
        files = [
            types_pb2.FileInfo(path=file["path"], size=file["size"], sha256=bytes.fromhex(file["sha256"]))
            for file in document.pop("files")[: MAX_FILES + 1]
        ]
        manifest = trainer_pb2.RevisionManifest(**document, files=files)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _unusable(MANIFEST, f"no manifest ({type(error).__name__})", "one; fetch or export it again") from error
    if len(manifest.files) > MAX_FILES or len(manifest.metrics) > MAX_METRICS:
        counts = f"of {len(manifest.files)} files and {len(manifest.metrics)} metrics"
        raise _unusable(MANIFEST, counts, f"of at most {MAX_FILES} and {MAX_METRICS}")
    for name, limit in MAX_TEXT.items():
        if len(getattr(manifest, name)) > limit:
            raise _unusable(name, f"{len(getattr(manifest, name))} characters long", f"at most {limit} characters long")
    if not all(map(math.isfinite, manifest.metrics.values())):
        raise _unusable("metrics", "not finite", "finite")
    if manifest_json(manifest).encode() != content:
        raise _unusable(MANIFEST, "not in its canonical form", "so; fetch or export it again")
    return manifest


def parse_card(content: bytes) -> Card:
    """Raises UNUSABLE_REVISION."""
    try:
        document = json.loads(content)
        version = document["version"]
        if version != CARD_VERSION:
            raise _unusable(f"{CARD} version", str(version)[:20], f"{CARD_VERSION}; export it with this release")
        card = Card(**{field.name: _typed(document, field.name, field.type) for field in fields(Card)})
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _unusable(CARD, f"no description of a model ({type(error).__name__})", "one; export it again") from error
    for name, limit in _BOUNDS.items():
        if not 1 <= getattr(card, name) <= limit:
            raise _unusable(name, getattr(card, name), f"from 1 to {limit}")
    if cache_row_bytes(card) > MAX_ROW_BYTES:
        raise _unusable(CARD, f"of {cache_row_bytes(card)} bytes a cached row", f"of at most {MAX_ROW_BYTES}")
    if card.quantization not in QUANTIZATIONS:
        raise _unusable("quantization", card.quantization[:80], f"one of {', '.join(QUANTIZATIONS)}")
    return card


def cache_row_bytes(card: Card) -> int:
    """Keys and values of one row, float32."""
    return 4 * card.num_layers * card.num_kv_heads * (card.key_dim + card.value_dim)


def _typed(document: dict[str, Any], name: str, kind: object) -> Any:
    value = document[name]
    if type(value).__name__ != kind:  # annotations are strings here; and True is no number
        raise TypeError(name)
    return value


def card_json(card: Card) -> bytes:
    return json.dumps(asdict(card), indent=2, sort_keys=True).encode() + b"\n"


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
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST):
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
        raise _unusable(MANIFEST, f"without a file {path}", "with one; take a revision that was exported for drafters")
    expected = listed[0]
    if expected.size > LIMITS[path]:
        raise _unusable(path, f"{expected.size} bytes", f"at most {LIMITS[path]} bytes")
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
                raise _unusable(path, "no plain file", "one")
            if path == MANIFEST and status.st_size > limit:
                raise _unusable(path, f"{status.st_size} bytes", f"at most {limit} bytes")
            return file.read(limit + 1)
    except OSError as error:
        raise _unusable(path, f"unreadable ({error.strerror})", "a file in the revision's folder") from error


def _unusable(field: str, value: object, limit: str) -> PacelineError:
    message = f"revision: {field} is {value}; it must be {limit}"
    return PacelineError(Reason.UNUSABLE_REVISION, message, field=field, value=value, limit=limit)
