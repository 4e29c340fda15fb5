"""The native decoder's library."""

from __future__ import annotations

import ctypes
from pathlib import Path

from paceline.wire.native.library import NativeCode
from paceline.wire.native.library import load_library as load

DECODER = NativeCode(
    name="decoder",
    title="the native decoder",
    package="paceline.verifier.native",
    sources=(
        "decoder.cpp", "attention.h", "decoder.h", "feed.h", "panels.h", "session_rows.h", "tile_attention.h",
        "tiles.h",
    ),
    shared=("amx.h", "best.h", "memory.h", "team.h", "vectors.h"),
)  # fmt: skip


def load_library(cache: Path | None = None) -> ctypes.CDLL:
    """See `paceline.wire.native.library.load_library`. Raises NoNativeCode."""
    return load(DECODER, cache)
