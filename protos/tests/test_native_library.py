"""Native code that is compiled where it runs: once, whole, and loaded only if nobody else could have put it there."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from paceline.wire.native.library import NativeCode, NoNativeCode, compiler, load_library

SOURCE = '#include "part.h"\nextern "C" int answer() { return PART + paceline::LANES * 0; }\n'

try:
    compiler()
except NoNativeCode as error:
    pytest.skip(f"nothing can be compiled here: {error}", allow_module_level=True)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "with_native_code"
    folder.mkdir()
    (folder / "__init__.py").touch()
    write(folder, 42)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    sys.modules.pop("with_native_code", None)


def write(folder: Path, part: int) -> None:
    (folder / "main.cpp").write_text(SOURCE)
    (folder / "part.h").write_text(f'#include "vectors.h"\n#define PART {part}\n')


CODE = NativeCode("trial", "a trial", "with_native_code", ("main.cpp", "part.h"), ("vectors.h",))


def test_it_is_compiled_once_for_each_content(package: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    assert load_library(CODE, cache).answer() == 42
    (library,) = cache.iterdir()
    made = library.stat().st_mtime_ns
    assert load_library(CODE, cache).answer() == 42
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [made]
    write(package, 43)
    assert load_library(CODE, cache).answer() == 43
    assert len(list(cache.iterdir())) == 2


def test_what_others_may_have_written_is_not_loaded(package: Path, tmp_path: Path):
    cache = tmp_path / "cache"
    load_library(CODE, cache)
    (library,) = cache.iterdir()
    for path, mode in ((library, 0o602), (cache, 0o720)):
        before = path.stat().st_mode
        path.chmod(mode)
        with pytest.raises(NoNativeCode, match="writable by others"):
            load_library(CODE, cache)
        path.chmod(before)


def test_what_is_no_library_is_told(package: Path, tmp_path: Path):
    load_library(CODE, tmp_path / "cache")
    (library,) = (tmp_path / "cache").iterdir()
    spoilt = tmp_path / "spoilt"
    spoilt.mkdir(mode=0o700)
    (spoilt / library.name).write_bytes(b"no library")
    (spoilt / library.name).chmod(0o600)
    with pytest.raises(NoNativeCode, match="delete it"):
        load_library(CODE, spoilt)


def test_a_compiler_that_fails_leaves_nothing(package: Path, tmp_path: Path):
    (package / "part.h").write_text("#error this processor has no wings\n")
    with pytest.raises(NoNativeCode, match="no wings"):
        load_library(CODE, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_compiler_and_no_place_are_told(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").touch()
    with pytest.raises(NoNativeCode, match="XDG_CACHE_HOME"):
        load_library(CODE, tmp_path / "file" / "cache")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoNativeCode, match=r"install g\+\+"):
        load_library(CODE, tmp_path / "cache")
