"""The format of one segment file: a header, then framed records; what can be read of it after any damage.

Header: magic, format version, Unix time at which the segment was begun, and a random marker. Each record's frame
repeats the marker, so that reading can go on after a damaged record: the next place with the marker and right checksums
is a record. The marker never leaves the disk, so nobody can plant a frame in a record for damage to bring to light.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

MARKER_BYTES = 8
ID_BYTES = 16
VERSION = 1
MAGIC = b"PLSEGM"
_HEADER = struct.Struct(f"<6sHd{MARKER_BYTES}s")  # magic, version, begun_unix_s, marker; then their CRC-32
_FRAME = struct.Struct(
    f"<{MARKER_BYTES}sII{ID_BYTES}sI"
)  # marker, size, num_tokens, id, payload's CRC-32; then their CRC-32
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
FRAME_BYTES = _FRAME.size + _CRC.size


class NewerFormat(Exception):
    """The segment was written by a newer release."""


@dataclass(frozen=True, slots=True)
class Record:
    """lesson_id: 16 bytes; num_tokens: for statistics; payload: opaque here."""

    lesson_id: bytes
    num_tokens: int
    payload: bytes

    @property
    def frame_bytes(self) -> int:
        """Size of the record on disk."""
        return FRAME_BYTES + len(self.payload)


@dataclass(frozen=True, slots=True)
class Header:
    begun_unix_s: float
    marker: bytes


@dataclass(frozen=True, slots=True)
class Scan:
    """Every whole record of a segment.

    Attributes:
        records: in order of writing.
        end: bytes up to the end of the last whole record; what follows is torn.
        num_gaps: stretches of damage that whole records follow.
    """

    records: tuple[Record, ...]
    end: int
    num_gaps: int


def encode_header(header: Header) -> bytes:
    packed = _HEADER.pack(MAGIC, VERSION, header.begun_unix_s, header.marker)
    return packed + _CRC.pack(zlib.crc32(packed))


def decode_header(data: bytes) -> Header | None:
    """None if it is damaged or not whole. Raises NewerFormat."""
    if len(data) < HEADER_BYTES or zlib.crc32(data[: _HEADER.size]) != _CRC.unpack_from(data, _HEADER.size)[0]:
        return None
    magic, version, begun_unix_s, marker = _HEADER.unpack_from(data)
    if magic != MAGIC:
        return None
    if version > VERSION:
        raise NewerFormat(f"segment format {version}; this release knows up to {VERSION}")
    return Header(begun_unix_s, marker)


def encode_record(record: Record, marker: bytes) -> bytes:
    frame = _FRAME.pack(marker, len(record.payload), record.num_tokens, record.lesson_id, zlib.crc32(record.payload))
    return frame + _CRC.pack(zlib.crc32(frame)) + record.payload


def scan(data: bytes, marker: bytes) -> Scan:
    """Reads a segment's bytes, header included, past any damage."""
    records: list[Record] = []
    end = HEADER_BYTES
    num_gaps = 0
    for start, record in _whole_records(data, marker):
        num_gaps += start > end
        records.append(record)
        end = start + record.frame_bytes
    return Scan(tuple(records), end, num_gaps)


def _whole_records(data: bytes, marker: bytes) -> Iterator[tuple[int, Record]]:
    offset = HEADER_BYTES
    while offset >= 0:
        record = _record_at(data, offset, marker)
        if record is None:
            offset = data.find(marker, offset + 1)
        else:
            yield offset, record
            offset += record.frame_bytes


def _record_at(data: bytes, offset: int, marker: bytes) -> Record | None:
    payload_at = offset + FRAME_BYTES
    if payload_at > len(data):
        return None
    frame = data[offset : offset + _FRAME.size]
    found, size, num_tokens, lesson_id, payload_crc = _FRAME.unpack(frame)
    if found != marker or zlib.crc32(frame) != _CRC.unpack_from(data, offset + _FRAME.size)[0]:
        return None
    payload = data[payload_at : payload_at + size]
    if len(payload) < size or zlib.crc32(payload) != payload_crc:
        return None
    return Record(lesson_id, num_tokens, payload)
