"""From facts to findings, without a machine."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_files import gguf, safetensors

from paceline.cli.doctor import (
    certificates,
    checks,
    clock,
    compiler,
    gpu,
    memory,
    model,
    processor,
    python_version,
    redis_server,
    state_folder,
)
from paceline.cli.doctor.finding import Finding, Level
from paceline.cli.doctor.settings import DoctorSettings
from paceline.cli.doctor.weights import BrokenFile, look_at

GIB = 1 << 30


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (python_version.judge((3, 11, 2), 64, "CPython", "p"), Level.OK, "CPython 3.11.2"),
        (python_version.judge((3, 10, 9), 64, "CPython", "p"), Level.FAIL, "3.10.9"),
        (python_version.judge((3, 12, 0), 32, "CPython", "p"), Level.FAIL, "32 bits"),
        (processor.judge_vectors("x86_64", "X", frozenset({"avx2", "fma"})), Level.OK, "AVX2"),
        (processor.judge_vectors("x86_64", "X", frozenset({"avx512f", "avx512_vnni"})), Level.OK, "bytes of heads"),
        (processor.judge_vectors("x86_64", "X", frozenset({"avx512f", "amx_bf16"})), Level.OK, "AMX"),
        (processor.judge_vectors("x86_64", "X", frozenset({"avx512f", "avx512_bf16"})), Level.OK, "in hardware"),
        (processor.judge_vectors("x86_64", "X", frozenset({"sse4_2"})), Level.WARN, "neither AVX2"),
        (processor.judge_vectors("aarch64", "", frozenset({"asimd"})), Level.OK, "NEON"),
        (processor.judge_vectors("x86_64", "", frozenset()), Level.WARN, "not told"),
        (processor.judge_cores(1), Level.WARN, "1 core"),
        (processor.judge_cores(2), Level.OK, "2 cores"),
        (memory.judge(memory.Memory(8 * GIB, 4 * GIB)), Level.OK, "4.0 of 8.0"),
        (memory.judge(memory.Memory(8 * GIB, GIB)), Level.WARN, "1.0 of 8.0"),
        (memory.judge(memory.Memory(8 * GIB, GIB // 4)), Level.FAIL, "0.2 of 8.0"),
        (memory.judge(None), Level.WARN, "doesn't tell"),
        (gpu.judge([], "", "2.13.0+cpu"), Level.OK, "none"),
        (gpu.judge(["H200"], "", "2.13.0+cpu"), Level.WARN, "is a CPU build"),
        (gpu.judge(["H200"], "", "2.13.0"), Level.OK, "torch 2.13.0"),
        (gpu.judge([], "driver mismatch", ""), Level.WARN, "driver mismatch"),
        (compiler.judge("/usr/bin/g++", "", "nothing-like-it"), Level.WARN, "CXX is nothing-like-it"),
        (compiler.judge_system("Darwin"), Level.WARN, "Linux"),
        (model.judge("m", [], 7_000_000_000, memory.Memory(8 * GIB, 8 * GIB)), Level.FAIL, "this machine has 8.0 GiB"),
        (model.judge("m", [], 1_000_000_000, memory.Memory(8 * GIB, GIB)), Level.WARN, "1.0 GiB are free"),
        (model.judge("m", [], 1_000_000_000, None), Level.OK, "1000.0 million parameters, 2.3 GiB"),
        (model.judge("m", [], 0, None), Level.WARN, "isn't looked into"),
        (state_folder.judge(state_folder.Room(Path("s"), "", GIB)), Level.WARN, "1.0 GiB free"),
        (clock.judge(0.0, True), Level.FAIL, "1970"),
        (clock.judge(1e30, True), Level.FAIL, "can't be"),
        (clock.judge(1.8e9, False), Level.WARN, "no time server"),
        (clock.judge(1.8e9, None), Level.OK, "2027"),
        (certificates.judge_key(Path("k"), 0o100640), Level.OK, "not for everybody"),
    ],
)
def test_facts_are_judged(finding: Finding, level: Level, words: str) -> None:
    assert finding.level is level, finding
    assert words in finding.found, finding
    assert bool(finding.advice) == (level is not Level.OK)


@pytest.mark.parametrize(
    ("info", "level", "words"),
    [
        ({"redis_version": "7.0.15", "aof_enabled": 1}, Level.OK, "version 7.0.15"),
        ({"redis_version": "6.2.1", "aof_enabled": 1}, Level.FAIL, "version 6.2.1"),
        ({"redis_version": "", "aof_enabled": 1}, Level.FAIL, "version"),
        ({"redis_version": "7.2.0", "role": "slave"}, Level.FAIL, "replica"),
        ({"redis_version": "7.2.0"}, Level.WARN, "forgets"),
        (
            {"redis_version": "7.2.0", "aof_enabled": 1, "maxmemory": 1, "maxmemory_policy": "allkeys-lru"},
            Level.WARN,
            "drop keys",
        ),
    ],
)
def test_what_a_redis_server_says_of_itself(info: dict[str, object], level: Level, words: str) -> None:
    worst = redis_server.judge("host:1", redis_server.Server(info, True, 0.0))[-1]
    assert worst.level is level
    assert words in worst.found


def test_a_redis_server_that_lets_nobody_run_scripts_or_has_another_time() -> None:
    info = {"redis_version": "7.2.0", "aof_enabled": 1}
    assert redis_server.judge("h", redis_server.Server(info, False, 0.0))[0].level is Level.FAIL
    assert "+3600 s" in redis_server.judge("h", redis_server.Server(info, True, 3600.0))[-1].found


def test_what_linux_says_is_read() -> None:
    text = (
        "processor : 0\nmodel name : Some CPU\nflags : fpu avx2 fma\n\nprocessor : 1\nmodel name : Other\nflags : fpu\n"
    )
    assert processor.parse_cpuinfo(text) == ("Some CPU", frozenset({"fpu", "avx2", "fma"}))
    assert processor.parse_cpuinfo("") == ("", frozenset())
    assert memory.parse_meminfo("MemTotal:  2048 kB\nMemAvailable: 1024 kB\n") == memory.Memory(2 << 20, 1 << 20)
    assert memory.parse_meminfo("nonsense") is None
    assert gpu.parse("NVIDIA H200, 143771, 570.1\nnonsense\n") == ["NVIDIA H200, 140 GiB, driver 570.1"]


def test_a_check_that_cannot_cope_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_settings: DoctorSettings) -> list[Finding]:
        raise RuntimeError("of a kind nobody thought of")

    monkeypatch.setitem(checks.CHECKS, "clock", broken)
    (finding,) = checks.examine("clock", DoctorSettings())
    assert finding.level is Level.WARN
    assert "of a kind nobody thought of" in finding.found


@pytest.mark.parametrize(("name", "content", "count"), [("a.gguf", gguf(), 8), ("a.safetensors", safetensors(), 256)])
def test_whole_files_of_weights_and_cut_ones(tmp_path: Path, name: str, content: bytes, count: int) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert look_at(path).num_parameters == count
    for length in {0, 3, 9, 20, 40, len(content) - 64, len(content) - 512, *range(0, len(content) - 64, 7)}:
        path.write_bytes(content[: max(0, length)])
        with pytest.raises(BrokenFile):
            look_at(path)


@given(st.sampled_from([".gguf", ".safetensors"]), st.binary(max_size=200), st.integers(0, 200), st.booleans())
def test_any_bytes_are_weights_or_broken_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, noise: bytes, at: int, whole: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / f"noise{suffix}"
    made = gguf() if suffix == ".gguf" else safetensors()
    path.write_bytes(made[:at] + noise + made[at + len(noise) :] if whole else noise)
    with contextlib.suppress(BrokenFile):
        assert look_at(path).num_parameters >= 0
