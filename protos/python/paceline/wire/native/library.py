"""Compiles native code for this machine's processor and keeps the library between starts."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import structlog

log = structlog.get_logger()

SHARED = "paceline.wire.native"  # package of headers that several libraries are made of
# Sums keep their written order: no -ffast-math. Contraction makes every a * b + c one fused operation.
FLAGS = (
    "-O3", "-std=c++17", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math",
    "-fPIC", "-shared", "-pthread",
)  # fmt: skip
COMPILE_S = 300.0


class NoNativeCode(Exception):
    """A library can't be had here; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class NativeCode:
    """What a library is made of.

    Attributes:
        name: of its file.
        title: what people call it.
        package: that has its sources.
        sources: the one that is compiled, then the headers.
        shared: headers of SHARED.
    """

    name: str
    title: str
    package: str
    sources: tuple[str, ...]
    shared: tuple[str, ...] = ()

    def files(self) -> Iterator[tuple[str, bytes]]:
        for package, names in ((self.package, self.sources), (SHARED, self.shared)):
            for name in names:
                yield name, resources.files(package).joinpath(name).read_bytes()


def load_library(code: NativeCode, cache: Path | None = None) -> ctypes.CDLL:
    """The library; compiles it (some seconds) unless the cache has it.

    Args:
        cache: folder for compiled libraries; default `$XDG_CACHE_HOME/paceline`, or `~/.cache/paceline`.

    Raises:
        NoNativeCode: no Linux, no compiler, or it fails.
    """
    if platform.system() != "Linux":
        raise NoNativeCode(f"it needs Linux, this is {platform.system()}")
    folder = cache or default_cache()
    library = folder / f"{code.name}-{_key(code)}.so"
    if not _is_ours(library):
        _compile(code, library)
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
            return str(Path(found).absolute())
    raise NoNativeCode("there is no C++ compiler; install g++ (Debian: apt-get install g++), or set CXX")


def _key(code: NativeCode) -> str:
    """Names what was compiled, for which processor, by which compiler: anything else is compiled anew."""
    whole = hashlib.sha256()
    for _, content in code.files():
        whole.update(content)
    version = subprocess.run([compiler(), "--version"], capture_output=True, check=False).stdout
    whole.update(" ".join(FLAGS).encode() + version + _processor())
    return whole.hexdigest()[:16]


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


def _compile(code: NativeCode, library: Path) -> None:
    """Whole or not at all: another process may be doing the same."""
    log.info(f"compiling {code.title}", library=str(library))
    try:
        library.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:
            for name, content in code.files():
                (Path(folder) / name).write_bytes(content)
            made = Path(folder) / library.name
            command = [compiler(), *FLAGS, code.sources[0], "-o", made.name]
            # In the folder itself: what the compiler says begins with paths, and only its beginning is passed on.
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=COMPILE_S)
            if done.returncode != 0:
                raise NoNativeCode(f"{command[0]} fails: {' '.join(done.stderr.split())[:400]}")
            made.chmod(0o600)
            made.replace(library)
    except OSError as error:
        raise NoNativeCode(f"{library.parent} can't be written ({error.strerror}); set XDG_CACHE_HOME") from error
    except subprocess.TimeoutExpired as error:
        raise NoNativeCode(f"the compiler takes longer than {COMPILE_S:g} s") from error
