"""The name of a revision vouches for every byte of it."""

from __future__ import annotations

import hashlib
import json
import math

from paceline.v1 import trainer_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason

MANIFEST = "manifest.json"
MAX_FILES = 256
MAX_METRICS = 64
MAX_TEXT = {
    "drafter": 200,
    "parent": 200,
    "model": 200,
    "tokenizer_hash": 200,
    "format": 200,
    "command": 4096,
    "data": 64,
}


def manifest_json(manifest: trainer_pb2.RevisionManifest) -> str:
    """The manifest in one canonical form: sorted keys, no spaces, hashes in hex, numbers as Python's repr.

    Protobuf's own serialization is not canonical across languages and versions, so it can't be what is hashed.
    """
    document = {
        "drafter": manifest.drafter,
        "parent": manifest.parent,
        "model": manifest.model,
        "tokenizer_hash": manifest.tokenizer_hash,
        "format": manifest.format,
        "command": manifest.command,
        "metrics": dict(manifest.metrics),
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256.hex()} for file in manifest.files],
    }
    if manifest.data:  # came later; without it the ids of what was there before stay what they are
        document["data"] = manifest.data
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def revision_id(manifest: trainer_pb2.RevisionManifest) -> str:
    """Hex SHA-256 of the canonical manifest."""
    return hashlib.sha256(manifest_json(manifest).encode()).hexdigest()


def parse_manifest(content: bytes) -> trainer_pb2.RevisionManifest:
    """The inverse of `manifest_json`, within bounds. Raises UNUSABLE_REVISION."""
    try:
        document = json.loads(content.decode("ascii"))
        files = [
            types_pb2.FileInfo(path=file["path"], size=file["size"], sha256=bytes.fromhex(file["sha256"]))
            for file in document.pop("files")[: MAX_FILES + 1]
        ]
        manifest = trainer_pb2.RevisionManifest(**document, files=files)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise unusable(MANIFEST, f"no manifest ({type(error).__name__})", "one; fetch or export it again") from error
    if len(manifest.files) > MAX_FILES or len(manifest.metrics) > MAX_METRICS:
        counts = f"of {len(manifest.files)} files and {len(manifest.metrics)} metrics"
        raise unusable(MANIFEST, counts, f"of at most {MAX_FILES} and {MAX_METRICS}")
    for name, limit in MAX_TEXT.items():
        if len(getattr(manifest, name)) > limit:
            raise unusable(name, f"{len(getattr(manifest, name))} characters long", f"at most {limit} characters long")
    if not all(map(math.isfinite, manifest.metrics.values())):
        raise unusable("metrics", "not finite", "finite")
    if manifest_json(manifest).encode() != content:
        raise unusable(MANIFEST, "not in its canonical form", "so; fetch or export it again")
    return manifest


def unusable(field: str, value: object, limit: str) -> PacelineError:
    """UNUSABLE_REVISION: what of a revision is not as it must be."""
    message = f"revision: {field} is {value}; it must be {limit}"
    return PacelineError(Reason.UNUSABLE_REVISION, message, field=field, value=value, limit=limit)
