"""The name of a revision vouches for every byte of it."""

from __future__ import annotations

import hashlib
import json

from paceline.v1 import trainer_pb2


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
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def revision_id(manifest: trainer_pb2.RevisionManifest) -> str:
    """Hex SHA-256 of the canonical manifest."""
    return hashlib.sha256(manifest_json(manifest).encode()).hexdigest()
