"""What a store checks of a manifest, besides what all readers do (`wire.revision`). Publishers are not trusted."""

from __future__ import annotations

import hashlib
import math
import unicodedata

from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.revision import MANIFEST, MAX_FILES, MAX_METRICS, MAX_TEXT
from paceline.wire.revision_folder import SIGNATURE, SIGNATURE_BYTES

MAX_TOTAL_BYTES = 8 * 1024**3
MAX_PATH = 200
MAX_PATH_PART_BYTES = 255  # what file systems take
MAX_NAME = 200
RECORD = "record.json"
WITHDRAWN = "withdrawn.json"
_RESERVED = (MANIFEST, SIGNATURE, RECORD, WITHDRAWN)
_HEX = frozenset("0123456789abcdef")
_SHA256_BYTES = hashlib.sha256().digest_size


def check_manifest(manifest: trainer_pb2.RevisionManifest) -> None:
    """Raises OUT_OF_RANGE or MALFORMED for what no store should hold, and no client write to its disk."""
    if not manifest.drafter:
        raise out_of_range("manifest.drafter", "empty", f"1 to {MAX_NAME} characters long")
    for name, limit in MAX_TEXT.items():
        length = len(getattr(manifest, name))
        if length > limit:
            raise out_of_range(f"manifest.{name}", f"{length} characters long", f"at most {limit} characters")
    if manifest.data and (len(manifest.data) != 2 * _SHA256_BYTES or not _HEX.issuperset(manifest.data)):
        raise _malformed("manifest.data", repr(manifest.data), "a SHA-256 in hex, or empty")
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


def check_signature(signature: bytes) -> None:
    """Its form; whether it is right is for those to check who have a key. Raises MALFORMED."""
    if len(signature) not in (0, SIGNATURE_BYTES):
        raise _malformed("signature", f"{len(signature)} bytes long", f"{SIGNATURE_BYTES} bytes long, or empty")


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
            f"relative, of 1 to {MAX_PATH} printable characters, without '..' or backslash, not {', '.join(_RESERVED)}"
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
