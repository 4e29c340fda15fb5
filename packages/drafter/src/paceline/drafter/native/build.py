"""The native head's library."""

from __future__ import annotations

import ctypes
from pathlib import Path

from paceline.wire.native.library import NativeCode
from paceline.wire.native.library import load_library as load

HEAD = NativeCode(
    name="head",
    title="the native feature head",
    package="paceline.drafter.native",
    sources=("head.cpp", "attention.h", "head.h", "int8.h"),
    shared=("amx.h", "best.h", "memory.h", "team.h", "vectors.h"),
)


def load_library(cache: Path | None = None) -> ctypes.CDLL:
    """See `paceline.wire.native.library.load_library`. Raises NoNativeCode."""
    return load(HEAD, cache)
