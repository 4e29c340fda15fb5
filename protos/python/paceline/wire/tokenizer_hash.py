"""The name of a tokenizer: whoever has the same files finds the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def tokenizer_hash(files: Iterable[tuple[str, bytes]]) -> str:
    """Hex SHA-256 over the paths and hashes of the files that transformers writes of a tokenizer, folder by folder.

    Args:
        files: relative path with forward slashes, and the SHA-256 (32 bytes) of the content.
    """
    whole = hashlib.sha256()
    for path, sha256 in sorted(files, key=lambda file: file[0].split("/")):
        whole.update(path.encode() + b"\0" + sha256)
    return whole.hexdigest()
