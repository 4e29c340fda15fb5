"""What a figure is worth nothing without: the machine, and the versions."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

# What decides how fast matrix products in float32, bfloat16 and int8 are.
FLAGS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "sve",
)
LIBRARIES = ("torch", "transformers", "tokenizers", "grpcio")


def describe_machine(cpuinfo: str | None = None, meminfo: str | None = None) -> dict[str, Any]:
    """Processor, cores, memory, flags. The arguments replace what Linux says in /proc."""
    processors = _fields(_read("/proc/cpuinfo") if cpuinfo is None else cpuinfo)
    memory = _fields(_read("/proc/meminfo") if meminfo is None else meminfo)
    known = set((processors.get("flags") or processors.get("Features") or "").split())
    kibibytes = memory.get("MemTotal", "").split()
    return {
        "processor": processors.get("model name") or platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(int(kibibytes[0]) / 2**20, 1) if kibibytes else None,
        "flags": [flag for flag in FLAGS if flag in known],
        "system": f"{platform.system()} {platform.release()}",
    }


def versions(services: Mapping[str, str]) -> dict[str, str]:
    """Python, libraries, and what Paceline's processes said of themselves."""
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in LIBRARIES},
        **services,
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _fields(text: str) -> dict[str, str]:
    """`name : value` lines; the first of a name counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found.setdefault(name.strip(), value.strip())
    return found
