"""Compiles the native decoder for this machine's processor and keeps the library between starts."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import structlog

log = structlog.get_logger()

SOURCES = (
    "decoder.cpp", "attention.h", "best.h", "decoder.h", "feed.h", "panels.h", "session_rows.h", "team.h",
    "tile_attention.h", "tiles.h", "vectors.h",
)  # fmt: skip
# Sums keep their written order: no -ffast-math. Contraction makes every a * b + c one fused operation.
FLAGS = (
    "-O3", "-std=c++17", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-fPIC", "-shared", "-pthread",
)  # fmt: skip
COMPILE_S = 300.0


class NoNativeCode(Exception):
    """The native decoder can't be had here; the message says why and what would help."""


def load_library(cache: Path | None = None) -> ctypes.CDLL:
    """The compiled decoder; compiles it (some ten seconds) unless the cache has it.

    Args:
        cache: folder for compiled libraries; default `$XDG_CACHE_HOME/paceline`, or `~/.cache/paceline`.

    Raises:
        NoNativeCode: no Linux, no compiler, or it fails.
    """
    if platform.system() != "Linux":
        raise NoNativeCode(f"it needs Linux, this is {platform.system()}")
    folder = cache or default_cache()
    library = folder / f"decoder-{_key()}.so"
    if not _is_ours(library):
        _compile(library)
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise NoNativeCode(f"{library} can't be loaded ({error}); delete it and start again") from error


def default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "paceline"


def compiler() -> str:
    """The C++ compiler: `$CXX`, or g++, or clang++. Raises NoNativeCode."""
    for name in (os.environ.get("CXX", ""), "g++", "clang++"):
        found = shutil.which(name) if name else None
        if found:
            return found
    raise NoNativeCode("there is no C++ compiler; install g++ (Debian: apt-get install g++), or set CXX")


def _key() -> str:
    """Names what was compiled, for which processor, by which compiler: anything else is compiled anew."""
    whole = hashlib.sha256()
    for name in SOURCES:
        whole.update(_source(name))
    version = subprocess.run([compiler(), "--version"], capture_output=True, check=False).stdout
    whole.update(" ".join(FLAGS).encode() + version + _processor())
    return whole.hexdigest()[:16]


def _source(name: str) -> bytes:
    return resources.files(__package__).joinpath(name).read_bytes()


def _processor() -> bytes:
    """Model and instruction sets, as Linux names them."""
    kept = (b"model name", b"flags", b"CPU part", b"Features")
    try:
        lines = Path("/proc/cpuinfo").read_bytes().splitlines()
    except OSError:
        return platform.machine().encode()
    return b"\n".join(sorted({line for line in lines if line.startswith(kept)}))


def _is_ours(library: Path) -> bool:
    """Code is loaded only if nobody else could have put it there."""
    if not library.exists():
        return False
    for path in (library, library.parent):
        status = path.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise NoNativeCode(f"{path} belongs to or is writable by others; delete it, or set XDG_CACHE_HOME")
    return True


def _compile(library: Path) -> None:
    """Whole or not at all: another process may be doing the same."""
    log.info("compiling the native decoder", library=str(library))
    try:
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            for name in SOURCES:
                (Path(folder) / name).write_bytes(_source(name))
            made = Path(folder) / "decoder.so"
            command = [compiler(), *FLAGS, str(Path(folder) / SOURCES[0]), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=COMPILE_S)
            if done.returncode != 0:
                raise NoNativeCode(f"{command[0]} fails: {' '.join(done.stderr.split())[:400]}")
            made.chmod(0o600)
            made.replace(library)
    except OSError as error:
        raise NoNativeCode(f"{library.parent} can't be written ({error.strerror}); set XDG_CACHE_HOME") from error
    except subprocess.TimeoutExpired as error:
        raise NoNativeCode(f"the compiler takes longer than {COMPILE_S:g} s") from error
