"""What a revision's manifest may say, and how it is read back from disk. Whoever publishes is not trusted."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata

from paceline.v1 import trainer_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.revision import manifest_json

MAX_FILES = 256
MAX_TOTAL_BYTES = 8 * 1024**3
MAX_PATH = 200
MAX_PATH_PART_BYTES = 255  # what file systems take
MAX_NAME = 200
MAX_COMMAND = 4096
MAX_METRICS = 64
MANIFEST = "manifest.json"
RECORD = "record.json"
_RESERVED = (MANIFEST, RECORD)
_SHA256_BYTES = hashlib.sha256().digest_size


def check_manifest(manifest: trainer_pb2.RevisionManifest) -> None:
    """Raises OUT_OF_RANGE or MALFORMED for what no store should hold, and no client write to its disk."""
    if not manifest.drafter:
        raise out_of_range("manifest.drafter", "empty", f"1 to {MAX_NAME} characters long")
    for name, limit in (*((name, MAX_NAME) for name in _NAMES), ("command", MAX_COMMAND)):
        length = len(getattr(manifest, name))
        if length > limit:
            raise out_of_range(f"manifest.{name}", f"{length} characters long", f"at most {limit} characters")
    _check_metrics(manifest)
    if not 0 < len(manifest.files) <= MAX_FILES:
        raise out_of_range("manifest.files", f"{len(manifest.files)} files", f"1 to {MAX_FILES}")
    total = sum(file.size for file in manifest.files)
    if total > MAX_TOTAL_BYTES:
        raise out_of_range("manifest.files", f"{total} bytes together", f"at most {MAX_TOTAL_BYTES} bytes")
    for file in manifest.files:
        _check_path(file.path)
        if len(file.sha256) != _SHA256_BYTES:
            raise _malformed("manifest.files.sha256", f"{len(file.sha256)} bytes", f"{_SHA256_BYTES} bytes")
    _check_together([file.path for file in manifest.files])


_NAMES = ("drafter", "parent", "model", "tokenizer_hash", "format")


def _check_metrics(manifest: trainer_pb2.RevisionManifest) -> None:
    if len(manifest.metrics) > MAX_METRICS:
        raise out_of_range("manifest.metrics", f"{len(manifest.metrics)} entries", f"at most {MAX_METRICS}")
    for name, value in manifest.metrics.items():
        if not 0 < len(name) <= MAX_NAME:
            raise out_of_range("manifest.metrics", "a name of wrong length", f"1 to {MAX_NAME} characters each")
        if not math.isfinite(value):
            raise out_of_range(f"manifest.metrics[{name}]", value, "finite")


def _check_path(path: str) -> None:
    parts = path.split("/")
    safe = (
        len(path) <= MAX_PATH
        and path.isprintable()
        and "\\" not in path
        and all(part not in ("", ".", "..") for part in parts)
        and all(len(part.encode()) <= MAX_PATH_PART_BYTES for part in parts)
        and parts[0].casefold() not in _RESERVED
    )
    if not safe:
        limit = (
            f"relative, of 1 to {MAX_PATH} printable characters, without '..' or backslash, not {MANIFEST} or {RECORD}"
        )
        raise _malformed("manifest.files.path", repr(path[:80]), limit)


def _check_together(paths: list[str]) -> None:
    """No file twice, also where file systems ignore case or the form of accents; none that is another's folder."""
    folded = {unicodedata.normalize("NFC", path).casefold() for path in paths}
    if len(folded) < len(paths):
        raise _malformed("manifest.files.path", "twice the same", "unique, regardless of case")
    for path in folded:
        parts = path.split("/")
        if any("/".join(parts[:depth]) in folded for depth in range(1, len(parts))):
            raise _malformed("manifest.files.path", f"inside a file: {path[:80]!r}", "inside folders only")


def _malformed(field: str, value: str, limit: str) -> PacelineError:
    message = f"{field} is {value}; it must be {limit}"
    return PacelineError(Reason.MALFORMED, message, field=field, value=value, limit=limit)


def parse_manifest(text: str) -> trainer_pb2.RevisionManifest:
    """The inverse of `wire.revision.manifest_json`. Raises ValueError for anything but its exact output."""
    try:
        document = json.loads(text)
        files = [
            types_pb2.FileInfo(path=file["path"], size=file["size"], sha256=bytes.fromhex(file["sha256"]))
            for file in document.pop("files")
        ]
        manifest = trainer_pb2.RevisionManifest(**document, files=files)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not a manifest: {error}") from error
    if manifest_json(manifest) != text:
        raise ValueError("not a manifest in its canonical form")
    return manifest
