"""What the processor can do, and what that means for the verifier's speed."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from paceline.cli.doctor.finding import Finding, ok, warn
from paceline.cli.doctor.settings import DoctorSettings

VNNI = {"avx512_vnni", "avx_vnni"}
BF16 = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
_SLOW = "use a processor with AVX2, or a GPU; drafting helps here as elsewhere, but every step is slow"


def check(_settings: DoctorSettings) -> list[Finding]:
    name, flags = processor()
    return [judge_vectors(platform.machine(), name, flags), judge_cores(usable_cores())]


def processor() -> tuple[str, frozenset[str]]:
    """Name and instruction sets of this machine's; empty where that isn't told."""
    try:
        return parse_cpuinfo(Path("/proc/cpuinfo").read_text())
    except OSError:
        return "", frozenset()


def usable_cores() -> int:
    """Of this process, which may have fewer than the machine."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """The model's name, and instruction sets as Linux names them; of a machine's processors the first's."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields.get("model name", ""), frozenset((fields.get("flags") or fields.get("Features") or "").split())


def judge_vectors(machine: str, name: str, flags: frozenset[str]) -> Finding:
    shown = name or machine
    if not flags:
        return warn(
            f"{shown}: what it can do is not told here", "nothing; the verifier measures its speed when it starts"
        )
    if machine.lower() in ("aarch64", "arm64"):
        return ok(f"{shown}: NEON, 4 numbers at a time{_small_numbers(flags)}")
    if "avx512f" in flags:
        return ok(f"{shown}: AVX-512, 16 numbers at a time{_small_numbers(flags)}")
    if {"avx2", "fma"} <= flags:
        return ok(f"{shown}: AVX2, 8 numbers at a time{_small_numbers(flags)}")
    return warn(f"{shown}: neither AVX2 nor AVX-512, so a step takes several times as long", _SLOW)


def _small_numbers(flags: frozenset[str]) -> str:
    """What multiplies numbers of 16 and of 8 bits: the native decoder has AMX, oneDNN the rest; heads have VNNI."""
    bytes_too = "; VNNI multiplies the bytes of heads" if flags & VNNI else ""
    if "amx_bf16" in flags:
        return f"; AMX multiplies bfloat16{bytes_too}"
    return f"; bfloat16 in hardware (--engine transformers uses it){bytes_too}" if flags & BF16 else bytes_too


def judge_cores(cores: int) -> Finding:
    if cores == 1:
        return warn(
            "1 core: drafters on this machine take turns with the model",
            "run drafters elsewhere (they dial in), or start them with --give-way",
        )
    return ok(f"{cores} cores")
