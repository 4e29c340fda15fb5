"""Folders of parquet shards: written whole or not at all, gone on with after a crash, read as a stream.

    shard-00000.parquet, shard-00001.parquet, …

A shard appears under its name when all of it is on disk. Every one says what it belongs to (`Origin`), so shards of
another target or with other settings never mix; pages carry checksums. Rows keep the order in which they were written,
and which rows share a shard follows from the plan alone: so a run that was killed and gone on with leaves the same
bytes as one that wasn't.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from paceline.trainer.data.batching import chunks
from paceline.trainer.data.rows import Kind, Origin, R
from paceline.trainer.durable import (
    PRIVATE_FILE,
    FolderInUse,
    lock_folder,
    make_private_folder,
    sync_folder,
)
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.settings import StartupError

VERSION = 1
MAX_SHARDS = 100_000
GROUP_BYTES = 64 << 20  # of a row group
MAX_ROW_BYTES = 1 << 30
MIXED_GROUPS = 4  # row groups that are in memory together when rows are shuffled
_NAME = re.compile(r"shard-(\d{5})\.parquet")
_ORIGIN = b"paceline"


class Shards(Generic[R]):
    """The shards that are in a folder now; what is written later isn't seen.

    Args:
        folder: to read.
        kind: of its rows.

    Attributes:
        origin: what the rows have in common.
        paths: of the shards, in order.

    Raises:
        PacelineError: MALFORMED, naming the shard that is missing, damaged or of something else.
    """

    def __init__(self, folder: Path, kind: Kind[R]) -> None:
        self.paths = shard_paths(folder)
        if not self.paths:
            raise _malformed(folder, "has no shards", f"make {kind.name} first")
        self._kind = kind
        self._groups: list[tuple[Path, int]] = []
        self._num_rows = 0
        origins: list[Origin] = []
        for path in self.paths:
            with _opened(path) as file:
                origins.append(_origin_of(path, file, kind))
                self._groups += [(path, group) for group in range(file.num_row_groups)]
                self._num_rows += file.metadata.num_rows
            if origins[-1] != origins[0]:
                raise _malformed(path, f"differs from the first shard in {_difference(origins[-1], origins[0])}")
        self.origin = origins[0]

    def __len__(self) -> int:
        return self._num_rows

    def __iter__(self) -> Iterator[R]:
        """Every row in the order of writing; one row group is in memory."""
        for path, group in self._groups:
            yield from self._rows(path, group)

    def shuffled(self, seed: int, epoch: int) -> Iterator[R]:
        """Every row once, in an order that only seed, epoch and shards determine; MIXED_GROUPS groups are in memory."""
        chance = np.random.default_rng((seed, epoch))
        order = [self._groups[index] for index in chance.permutation(len(self._groups))]
        for start in range(0, len(order), MIXED_GROUPS):
            rows = [row for path, group in order[start : start + MIXED_GROUPS] for row in self._rows(path, group)]
            for index in chance.permutation(len(rows)):
                yield rows[index]

    def ids(self) -> set[str]:
        """The id of every row; reads nothing else."""
        found: set[str] = set()
        for path in self.paths:
            with _opened(path) as file:
                found.update(file.read(["id"]).column("id").to_pylist())
        return found

    def sha256(self) -> str:
        """Hex SHA-256 over the shards' SHA-256, in order: what a manifest says of its data."""
        whole = hashlib.sha256()
        for path in self.paths:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()

    def _rows(self, path: Path, group: int) -> Iterator[R]:
        with _opened(path) as file:
            table = file.read_row_group(group)
        for index in range(table.num_rows):
            columns = {name: _value(table.column(name)[index]) for name in table.column_names}
            try:
                row = self._kind.row(columns, self.origin)
            except (ValueError, KeyError, TypeError) as error:
                raise _malformed(path, f"row {index} of group {group}: {error}") from error
            yield row


class ShardWriter(Generic[R]):
    """Adds shards to a folder, which it alone may write to meanwhile; leaves when the block ends.

    Args:
        folder: made if it isn't there; from then on only its owner can look into it.
        kind: of the rows.
        origin: of the rows; shards that are there must have the same.

    Attributes:
        done: ids of the rows that are there.

    Raises:
        StartupError: the folder is in use, can't be used, or holds rows of another origin.
        PacelineError: MALFORMED, naming a damaged shard.
    """

    def __init__(self, folder: Path, kind: Kind[R], origin: Origin) -> None:
        self._folder, self._kind = folder, kind
        self._origin = json.loads(json.dumps(origin))  # as it will be read back
        try:
            make_private_folder(folder)
            self._lock = lock_folder(folder)
        except FolderInUse as error:
            raise StartupError(f"{folder}: another process writes there; stop it, or choose another folder") from error
        except OSError as error:
            raise StartupError(f"{folder}: {error.strerror}") from error
        try:
            self.done = self._look()
        except BaseException:
            os.close(self._lock)
            raise

    def __enter__(self) -> ShardWriter[R]:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def write(self, rows: Sequence[R]) -> Path:
        """The next shard, of one row at least. It is on disk when this returns.

        Raises:
            StartupError: the disk refuses.
            PacelineError: OUT_OF_RANGE for a row that is too large.
        """
        path = self._folder / f"shard-{self._count:05}.parquet"
        schema = self._kind.schema.with_metadata({_ORIGIN: _stamp(self._kind, self._origin)})
        largest = max(map(self._kind.num_bytes, rows))
        if largest > MAX_ROW_BYTES:
            raise out_of_range(f"{path.name}: a row", f"of {largest} bytes", f"of at most {MAX_ROW_BYTES}; keep less")
        unfinished = path.with_name(f"{path.name}.new")
        try:
            file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE_FILE)
            with os.fdopen(file, "wb") as sink:
                with pq.ParquetWriter(sink, schema, **_layout(self._kind)) as writer:
                    for some in chunks(rows, self._kind.group, self._kind.num_bytes, GROUP_BYTES):
                        writer.write_table(self._kind.table(some).cast(schema), row_group_size=len(some))
                sink.flush()
                os.fsync(file)
            unfinished.replace(path)
            sync_folder(self._folder)
        except OSError as error:
            raise StartupError(
                f"{path}: {error.strerror or error}; what is complete stays: make room and run the same again"
            ) from error
        self._count += 1
        return path

    def _look(self) -> set[str]:
        for unfinished in self._folder.glob("shard-*.parquet.new"):
            unfinished.unlink()
        self._count = len(shard_paths(self._folder))
        if not self._count:
            return set()
        there = Shards(self._folder, self._kind)
        if there.origin != self._origin:
            what = _difference(there.origin, self._origin)
            raise StartupError(f"{self._folder}: holds {self._kind.name} with other {what}; choose another folder")
        return there.ids()


def shard_paths(folder: Path) -> list[Path]:
    """The folder's shards in order. Raises MALFORMED if one is missing between others."""
    paths = sorted(path for path in folder.glob("shard-*.parquet") if _NAME.fullmatch(path.name))
    if len(paths) > MAX_SHARDS:
        raise _malformed(folder, f"has {len(paths)} shards", f"use at most {MAX_SHARDS}")
    for index, path in enumerate(paths):
        if path.name != f"shard-{index:05}.parquet":
            raise _malformed(
                folder, f"has no shard-{index:05}.parquet, but later ones", "restore it, or remove the later ones"
            )
    return paths


def _layout(kind: Kind[Any]) -> dict[str, Any]:
    names = kind.schema.names
    return {
        "compression": {name: "NONE" if name in kind.raw else "ZSTD" for name in names},
        "use_dictionary": ["source", "finish"],
        "write_statistics": False,
        "write_page_checksum": True,
        "store_schema": True,
    }


def _stamp(kind: Kind[Any], origin: Origin) -> bytes:
    return json.dumps({"version": VERSION, "kind": kind.name, "origin": origin}, sort_keys=True).encode()


def _origin_of(path: Path, file: pq.ParquetFile, kind: Kind[Any]) -> Origin:
    schema = file.schema_arrow
    try:
        stamp = json.loads((schema.metadata or {})[_ORIGIN])
        version, name, origin = stamp["version"], stamp["kind"], stamp["origin"]
    except (KeyError, TypeError, ValueError) as error:
        raise _malformed(path, "was not written by this program") from error
    if (version, name) != (VERSION, kind.name) or not isinstance(origin, dict):
        raise _malformed(
            path, f"holds {name!s:.20} of version {version!s:.20}", f"use {kind.name} of version {VERSION}"
        )
    if not schema.equals(kind.schema):
        raise _malformed(path, f"has other columns than {kind.name} have")
    groups = [file.metadata.row_group(index) for index in range(file.num_row_groups)]
    if any(group.total_byte_size > 2 * MAX_ROW_BYTES for group in groups):
        raise _malformed(path, f"has row groups of more than {2 * MAX_ROW_BYTES} bytes")
    return origin


def _difference(one: Origin, other: Origin) -> str:
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return ", ".join(f"{name} ({one.get(name)!s:.60}, not {other.get(name)!s:.60})" for name in names)


def _value(cell: Any) -> Any:
    """A list as an array, everything else as Python has it."""
    if isinstance(cell, pa.ListScalar):
        return cell.values.to_numpy(zero_copy_only=False).copy()
    if isinstance(cell, pa.BinaryScalar) and not isinstance(cell, pa.StringScalar):
        return cell.as_buffer()
    return cell.as_py()


@contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise _malformed(path, f"can't be read ({type(error).__name__})") from error


def _malformed(
    path: Path, what: str, hint: str = "remove it and all later ones, and run the same again"
) -> PacelineError:
    return PacelineError(Reason.MALFORMED, f"{path}: {what}; {hint}", field=path.name)
