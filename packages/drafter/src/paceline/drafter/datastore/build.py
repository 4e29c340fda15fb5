"""Making a datastore: texts to tokens, tokens to a suffix array, both to files. Offline, by the `index` command."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from paceline.drafter.automaton import BREAK
from paceline.drafter.datastore.store import MANIFEST, MAX_TOKENS, SUFFIXES, TOKENS, File, FileName, Manifest
from paceline.drafter.datastore.suffix_array import SORTED_DEPTH, Tokens, suffix_array
from paceline.wire.errors import out_of_range
from paceline.wire.settings import StartupError

PIECE_CHARS = 1 << 16  # of text tokenized at once; cut after a line, or else anywhere

Report = Callable[[str, float], None]
"""Hears of progress: what is being done, and how much of it is, from 0 to 1."""


class Encoder(Protocol):
    """Text to tokens."""

    def encode(self, text: str) -> list[int]: ...


def tokenize(files: Iterable[Path], encoder: Encoder, report: Report) -> Tokens:
    """All texts' tokens, a BREAK after each file.

    Raises:
        StartupError: a file can't be read, or isn't UTF-8.
        PacelineError: OUT_OF_RANGE for more than MAX_TOKENS.
    """
    found = array("i")
    paths = list(files)
    total = sum(path.stat().st_size for path in paths if path.exists()) or 1
    done = 0
    for path in paths:
        for piece, num_bytes in _pieces(path):
            found.extend(encoder.encode(piece))
            done += num_bytes
            report("tokenizing", done / total)
            if len(found) > MAX_TOKENS:
                raise out_of_range("--text", f"more than {MAX_TOKENS} tokens", f"at most {MAX_TOKENS}; give less text")
        found.append(BREAK)
    return np.frombuffer(found, dtype=np.int32)


def write(tokens: Tokens, tokenizer_hash: str, out: Path, report: Report) -> Manifest:
    """Writes a datastore, whole or not at all.

    Raises:
        StartupError: there are no tokens.
        OSError: the disk refuses.
    """
    if not np.any(tokens >= 0):
        raise StartupError("--text: there is no text in these files")
    suffixes = suffix_array(tokens, lambda share: report("sorting", share))
    padded = np.concatenate([tokens, np.full(SORTED_DEPTH, BREAK, dtype=np.int32)])
    contents: dict[FileName, memoryview] = {TOKENS: padded.data, SUFFIXES: suffixes.data}
    manifest = Manifest(
        tokenizer_hash=tokenizer_hash,
        num_tokens=len(tokens),
        vocab_size=int(tokens.max()) + 1,
        files={name: File(size=ids.nbytes, sha256=hashlib.sha256(ids).hexdigest()) for name, ids in contents.items()},
    )
    unfinished = out.with_name(f".{out.name}-{secrets.token_hex(4)}")
    unfinished.mkdir(parents=True)
    try:
        for name, ids in contents.items():
            _write_file(unfinished / name, ids)
        _write_file(unfinished / MANIFEST, manifest.model_dump_json(indent=2).encode())
        unfinished.rename(out)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return manifest


def _write_file(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _pieces(path: Path) -> Iterator[tuple[str, int]]:
    """A file's text in pieces that end with a line where they can, and each one's size in bytes."""
    try:
        with path.open(encoding="utf-8") as file:
            while piece := file.read(PIECE_CHARS):
                piece += file.readline(PIECE_CHARS)
                yield piece, len(piece.encode())
    except OSError as error:
        raise StartupError(f"--text {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StartupError(f"--text {path}: not UTF-8 at byte {error.start} of what was read last") from error
