"""The process's memory, as the operating system sees it."""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

import torch


def free_memory(device: str) -> int:
    """Bytes that could be taken now."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):  # what the page cache would give up counts as free
            return int(line.split()[1]) << 10
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGESIZE")


def give_back() -> None:
    """Returns to the system what was freed: loading a model leaves some 300 MB of it with the C library's heap."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)
