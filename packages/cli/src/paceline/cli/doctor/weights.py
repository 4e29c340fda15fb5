"""Files of weights, looked at without loading them: whether they are whole, and how much memory they take.

safetensors says at its beginning how long it is; GGUF says where each tensor lies. So a download that was cut off, or a
file that is something else, is found in milliseconds.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAX_HEADER = 100_000_000  # safetensors' own bound
MAX_COUNT = 1_000_000  # tensors, or keys, of a GGUF file
MAX_STRING = 16 << 20
MAX_DIMENSIONS = 8

_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # GGUF's types, in bytes
_STRING, _ARRAY = 8, 9


class BrokenFile(Exception):
    """The file is no such file, or not whole; the message says why."""


@dataclass(frozen=True, slots=True)
class Weights:
    """num_parameters: numbers in all tensors."""

    num_parameters: int


def look_at(path: Path) -> Weights:
    """Raises BrokenFile, also if it can't be read."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            return _gguf(file, size) if path.suffix == ".gguf" else _safetensors(file, size)
    except OSError as error:
        raise BrokenFile(f"it can't be read: {error.strerror}") from None


def _safetensors(file: BinaryIO, size: int) -> Weights:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    if length > min(MAX_HEADER, size):
        raise BrokenFile("it doesn't begin as safetensors does")
    try:
        header = json.loads(_exactly(file, length))
        tensors: list[dict[str, Any]] = [value for key, value in header.items() if key != "__metadata__"]
        end = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        parameters = sum(math.prod(map(int, tensor["shape"])) for tensor in tensors)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise BrokenFile("its header is not that of safetensors") from None
    if 8 + length + end != size:
        raise BrokenFile(f"it has {size} bytes and should have {8 + length + end}")
    return Weights(parameters)


def _gguf(file: BinaryIO, size: int) -> Weights:
    if _exactly(file, 4) != b"GGUF":
        raise BrokenFile("it doesn't begin as GGUF does")
    version, num_tensors, num_keys = struct.unpack("<IQQ", _exactly(file, 20))
    if version not in (2, 3) or max(num_tensors, num_keys) > MAX_COUNT:
        raise BrokenFile(f"it is GGUF of version {version} with {num_tensors} tensors, which can't be read")
    for _ in range(num_keys):
        _skip_string(file)
        _skip_value(file, *struct.unpack("<I", _exactly(file, 4)))
    parameters = last = 0
    for _ in range(num_tensors):
        _skip_string(file)
        (dimensions,) = struct.unpack("<I", _exactly(file, 4))
        if dimensions > MAX_DIMENSIONS:
            raise BrokenFile("a tensor has too many dimensions")
        shape = struct.unpack(f"<{dimensions}Q", _exactly(file, 8 * dimensions))
        _kind, offset = struct.unpack("<IQ", _exactly(file, 12))
        parameters += math.prod(shape)
        last = max(last, offset)
    if num_tensors and file.tell() + last >= size:
        raise BrokenFile(f"it ends after {size} bytes, in the middle of its tensors")
    return Weights(parameters)


def _exactly(file: BinaryIO, count: int) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise BrokenFile("it ends in the middle of its header")
    return content


def _skip_string(file: BinaryIO) -> None:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    if length > MAX_STRING:
        raise BrokenFile("its header has a string without end")
    _exactly(file, length)


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _skip_string(file)
    elif kind == _ARRAY:
        inner, count = struct.unpack("<IQ", _exactly(file, 12))
        if inner in _SCALARS and count <= MAX_STRING:
            _exactly(file, count * _SCALARS[inner])
        elif inner == _STRING and count <= MAX_COUNT * 4:
            for _ in range(count):
                _skip_string(file)
        else:
            raise BrokenFile("its header has an array that can't be read")
    elif kind in _SCALARS:
        _exactly(file, _SCALARS[kind])
    else:
        raise BrokenFile("its header has a value of an unknown kind")
