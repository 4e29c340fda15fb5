"""What a step of `lean` is told, in buffers that never move: one for each shape, filled anew for each step.

Everything that depends on the tree is worked out here, with numpy: on the device a row's ancestors are just places in
the cache that it reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch

from paceline.verifier.model.batch import ROOT
from paceline.verifier.model.blocks import BLOCK_TOKENS, KVSlot
from paceline.verifier.model.paged import MAX_STEP_ROWS, ZERO_BLOCK, ZERO_SLOT, stored_blocks, token_slots

ROW_COUNTS = (2, 8, 16, 32, 64, 128)
MIN_GRAIN = 16

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepShape:
    """The canonical numbers of a step: whatever a step is asked, it computes with these.

    A row has the same bits in every step of the same shape, so use one shape for all steps that decode or verify,
    with and without speculation.

    Attributes:
        rows: of all sessions together, one of ROW_COUNTS.
        sessions: at most so many in a step.
        session_rows: at most so many of one session. Attention costs sessions x session_rows.
        wanted: at most so many rows whose logits are wanted.

    Raises:
        ValueError: says which number is wrong.
    """

    rows: int
    sessions: int
    session_rows: int
    wanted: int

    def __post_init__(self) -> None:
        if self.rows not in ROW_COUNTS:
            raise ValueError(f"rows is {self.rows}; it must be one of {', '.join(map(str, ROW_COUNTS))}")
        for name in ("sessions", "session_rows", "wanted"):
            if not 1 <= getattr(self, name) <= self.rows:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 1 to the {self.rows} rows")

    @property
    def grain(self) -> int:
        """The end of a row's context that it reads for itself begins at a multiple of this; see `tail_start`."""
        return max(MIN_GRAIN, 1 << (self.session_rows - 1).bit_length())

    @property
    def tail(self) -> int:
        """Tokens of a row's context that it reads for itself."""
        return 2 * self.grain


@dataclass(frozen=True, slots=True)
class SessionRows:
    """One session's rows in a step: a forest below its committed tokens.

    Attributes:
        slot: its place in the cache.
        tokens: [n] token ids; parents before children.
        parents: [n] index of each row's parent, or `ROOT` for the last committed token.
        wanted: which rows' logits are wanted, ascending.
    """

    slot: KVSlot
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    wanted: tuple[int, ...]


class StepTensors:
    """The buffers of one shape, on the host and on the device.

    Attributes (on the device, int64):
        tokens, positions: [rows].
        tail_slots: [rows, tail] token slots of the end of each row's context in logical order, beginning at
            `tail_start(positions)`: committed tokens, then the ancestors in the stage, then itself, then zeros.
        grid: [sessions, session_rows] which row of the step stands there; places that are left over hold row 0.
        place: [rows] where in the flat grid each row stands.
        tables: [sessions, max_blocks] blocks of each session's context, then the zero block.
        wanted: [wanted] rows; those left over are row 0.
        num_blocks: of `tables` that this step needs; on the host.
        num_rows, num_wanted: that are used; on the host.
    """

    def __init__(self, shape: StepShape, max_tokens: int, device: torch.device) -> None:
        self.shape = shape
        sizes = {
            "tokens": (shape.rows,),
            "positions": (shape.rows,),
            "tail_slots": (shape.rows, shape.tail),
            "grid": (shape.sessions, shape.session_rows),
            "place": (shape.rows,),
            "tables": (shape.sessions, math.ceil(max_tokens / BLOCK_TOKENS)),
            "wanted": (shape.wanted,),
        }
        ends = np.cumsum([0, *(math.prod(size) for size in sizes.values())]).tolist()
        # One buffer for all, so that one copy brings everything to the device.
        self._host = torch.zeros(ends[-1], dtype=torch.int64, pin_memory=device.type == "cuda")
        self._device = torch.zeros(ends[-1], dtype=torch.int64, device=device)
        parts = {name: slice(*bounds) for name, bounds in zip(sizes, pairwise(ends), strict=True)}
        on_host = {name: self._host[part].view(sizes[name]).numpy() for name, part in parts.items()}
        on_device = {name: self._device[part].view(sizes[name]) for name, part in parts.items()}
        self._fields: dict[str, Ints] = on_host
        self.tokens, self.positions = on_device["tokens"], on_device["positions"]
        self.tail_slots, self.tables = on_device["tail_slots"], on_device["tables"]
        self.grid, self.place, self.wanted = on_device["grid"], on_device["place"], on_device["wanted"]
        self.num_blocks = self.num_rows = self.num_wanted = 0
        self.fill(())

    def fill(self, sessions: Sequence[SessionRows]) -> None:
        """Lays the sessions' rows out one after the other and starts the copy to the device.

        The step before must be over on the device: its results have been read.

        Raises:
            ValueError: they don't fit the shape, or the context that tables have room for.
        """
        self._check(sessions)
        self._clear()
        first = num_wanted = num_blocks = 0
        for number, session in enumerate(sessions):
            num_blocks = max(num_blocks, self._lay_out(number, session, first))
            end = num_wanted + len(session.wanted)
            self._fields["wanted"][num_wanted:end] = first + np.array(session.wanted, dtype=np.int64)
            num_wanted = end
            first += len(session.tokens)
        self.num_rows, self.num_wanted, self.num_blocks = first, num_wanted, num_blocks
        self._device.copy_(self._host, non_blocking=True)

    def _check(self, sessions: Sequence[SessionRows]) -> None:
        shape, room = self.shape, self._fields["tables"].shape[1] * BLOCK_TOKENS
        counts = (
            ("sessions", len(sessions), shape.sessions),
            ("rows", sum(len(session.tokens) for session in sessions), shape.rows),
            ("rows of one session", max((len(session.tokens) for session in sessions), default=0), shape.session_rows),
            ("wanted rows", sum(len(session.wanted) for session in sessions), shape.wanted),
            ("tokens of context", max((session.slot.length for session in sessions), default=0), room),
        )
        for name, count, limit in counts:
            if count > limit:
                raise ValueError(f"{count} {name}, and the step's shape has room for {limit}")

    def _clear(self) -> None:
        """Rows that are left over see only themselves, at position 0."""
        for name in ("tokens", "positions", "grid", "place", "wanted"):
            self._fields[name][:] = 0
        self._fields["tail_slots"][:] = ZERO_SLOT
        self._fields["tail_slots"][:, 0] = np.arange(self.shape.rows)
        self._fields["tables"][:] = ZERO_BLOCK

    def _lay_out(self, number: int, session: SessionRows, first: int) -> int:
        """One session's rows, from row `first` on. Returns how many blocks of its table the step needs."""
        count, length = len(session.tokens), session.slot.length
        blocks = stored_blocks(session.slot)
        depths, paths = _paths(session.parents)
        rows = slice(first, first + count)
        positions = length + depths
        starts = tail_start(positions, self.shape.grain)
        place = number * self.shape.session_rows + np.arange(count)
        self._fields["tokens"][rows] = session.tokens
        self._fields["positions"][rows] = positions
        self._fields["tail_slots"][rows] = self._tails(blocks, length, positions, starts, paths, first)
        self._fields["place"][rows] = place
        self._fields["grid"].reshape(-1)[place] = first + np.arange(count)
        num_blocks = math.ceil(int(starts.max(initial=0)) / BLOCK_TOKENS)
        self._fields["tables"][number, :num_blocks] = blocks[:num_blocks]
        return num_blocks

    def _tails(self, blocks: Ints, length: int, positions: Ints, starts: Ints, paths: Ints, first: int) -> Ints:
        """[n, tail] token slots."""
        logical = starts[:, None] + np.arange(self.shape.tail)
        committed = logical < length
        staged = ~committed & (logical <= positions[:, None])
        slots = np.full(logical.shape, ZERO_SLOT, dtype=np.int64)
        slots[committed] = token_slots(blocks, logical[committed])
        depths = np.where(staged, logical - length, 0)
        slots[staged] = first + np.take_along_axis(paths, depths, axis=1)[staged]
        return slots


def tail_start(positions: Ints, grain: int) -> Ints:
    """Where the part of the context begins that each row reads for itself.

    It depends on the row's position alone, not on how much of its context is committed, so the sums over the context
    are cut at the same places however the tokens before it came. Ancestors that are not committed lie behind it, since
    there are at most `grain` rows of a session.
    """
    starts: Ints = np.maximum(positions // grain - 1, 0) * grain
    return starts


def _paths(parents: Sequence[int]) -> tuple[Ints, Ints]:
    """Depths [n], and paths [n, n]: the rows from the root's child down to each row, by depth."""
    count = len(parents)
    depths = np.zeros(count, dtype=np.int64)
    paths = np.zeros((count, max(count, 1)), dtype=np.int64)
    for row, parent in enumerate(parents):
        if parent != ROOT:
            depths[row] = depths[parent] + 1
            paths[row] = paths[parent]
        paths[row, depths[row]] = row
    return depths, paths


assert max(ROW_COUNTS) == MAX_STEP_ROWS
