"""A transformers tokenizer as files: the same ones wherever and however it was loaded."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Protocol

CONFIG = "tokenizer_config.json"
HOW_IT_WAS_LOADED = ("is_local", "local_files_only", "name_or_path")
"""What transformers notes of the loading, HF_HUB_OFFLINE among it; to load from the files nobody needs it."""


class Saves(Protocol):
    """Any of transformers' tokenizers."""

    def save_pretrained(self, save_directory: str) -> object: ...


def tokenizer_files(tokenizer: Saves) -> dict[str, bytes]:
    """Contents by relative path with forward slashes, in the paths' order, as transformers and `tokenizers` load them.

    Raises OSError: there is no room for them in the folder for temporary files.
    """
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
    if CONFIG in found:
        found[CONFIG] = _canonical(found[CONFIG])
    return found


def _canonical(content: bytes) -> bytes:
    config = json.loads(content)
    for key in HOW_IT_WAS_LOADED:
        config.pop(key, None)
    return json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False).encode() + b"\n"
