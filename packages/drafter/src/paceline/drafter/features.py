"""What a feature head is told of the target: its hidden states, as they come with commits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision import unusable

Floats = npt.NDArray[np.float32]
BFloat16 = npt.NDArray[np.uint16]  # its bits: numpy has no such number
EXPONENT = 0x7F80  # all ones in what is infinite or no number


@dataclass(frozen=True, slots=True)
class FeatureNeeds:
    """What a head needs.

    Attributes:
        layers: of the target, as in Hello.
        hidden_size: of the target.
        window: positions at a prompt's end that it looks at; 0 is all.
        borrows: the first of the layers is 0, whose states are not the head's to read: they are embeddings of tokens
            that its vocabulary may lack.
    """

    layers: tuple[int, ...]
    hidden_size: int
    window: int = 0
    borrows: bool = False

    @property
    def width(self) -> int:
        """Numbers at each position."""
        return len(self.layers) * self.hidden_size

    @property
    def num_embedded(self) -> int:
        """Of these the first, which are a token's embedding."""
        return self.hidden_size if self.borrows else 0

    def check(self, layers: tuple[int, ...], hidden_size: int) -> None:
        """Whether what a verifier will send will do. Raises UNUSABLE_REVISION."""
        if not layers:
            raise PacelineError(
                Reason.UNUSABLE_REVISION,
                "the verifier sends no features (protocol 1.1, or its engine can't); draft for it without feature_head",
                field="welcome.feature_layers",
            )
        if (layers, hidden_size) != (self.layers, self.hidden_size):
            found = f"layers {_listed(layers)} of {hidden_size} numbers"
            needed = f"layers {_listed(self.layers)} of {self.hidden_size}, as the head was made for"
            raise unusable("welcome.feature_layers", found, needed)


def needs_in_common(needs: Iterable[FeatureNeeds]) -> FeatureNeeds | None:
    """What to ask a verifier for on behalf of several heads; None for none.

    Raises UNUSABLE_REVISION if they want different layers: a stream has features of one kind only.
    """
    wanted = list(needs)
    if not wanted:
        return None
    first = wanted[0]
    for other in wanted[1:]:
        if (other.layers, other.hidden_size) != (first.layers, first.hidden_size):
            raise unusable(
                "feature_layers",
                f"{_listed(other.layers)} of {other.hidden_size} numbers in one head",
                f"{_listed(first.layers)} of {first.hidden_size} as in the other; give each a process of its own",
            )
    window = 0 if any(not other.window for other in wanted) else max(other.window for other in wanted)
    return FeatureNeeds(first.layers, first.hidden_size, window, first.borrows)


def _listed(layers: Iterable[int]) -> str:
    return ",".join(map(str, layers))


@dataclass(frozen=True, slots=True)
class Features:
    """The target's states at consecutive positions, the first of which is `first`: [positions, width] in bfloat16."""

    first: int
    values: BFloat16

    @property
    def end(self) -> int:
        """The position behind the last."""
        return self.first + len(self.values)


def is_finite(values: BFloat16) -> bool:
    return not bool(((values & EXPONENT) == EXPONENT).any())


def widened(values: BFloat16) -> Floats:
    return (values.astype(np.uint32) << 16).view(np.float32)


class FeatureStretch:
    """The latest states of one session, without a gap.

    Args:
        width: numbers at a position.
        most: positions to keep at least; up to twice as many are kept.
    """

    def __init__(self, width: int, most: int) -> None:
        self.first = self.end = 0  # positions [first, end)
        self._most = most
        self._values: BFloat16 = np.empty((0, width), np.uint16)

    def __len__(self) -> int:
        return self.end - self.first

    def clear(self) -> None:
        self.first = self.end
        self._values = self._values[:0].copy()

    def extend(self, features: Features) -> bool:
        """Takes what is new of these. False: there is a gap, so what was before them is forgotten."""
        goes_on = len(self) > 0 and features.first <= self.end <= features.end
        if not goes_on:
            self.first = self.end = features.first
        new = features.values[self.end - features.first :]
        if len(new) > 2 * self._most:
            self.first = self.end = features.end - 2 * self._most
            new = new[-2 * self._most :]
        if len(self) + len(new) > len(self._values):
            self._make_room(len(new))
        held = len(self)
        self._values[held : held + len(new)] = new
        self.end += len(new)
        return goes_on

    def _make_room(self, num_new: int) -> None:
        kept = min(len(self), max(self._most - num_new, 0))
        moved = np.empty((2 * self._most, self._values.shape[1]), np.uint16)
        moved[:kept] = self._values[len(self) - kept : len(self)]
        self._values, self.first = moved, self.end - kept

    @property
    def features(self) -> Features | None:
        """All that is kept; None if nothing is."""
        return Features(self.first, self._values[: len(self)]) if len(self) else None

    def at(self, first: int, end: int) -> Floats:
        """The states at positions [first, end), which must be here: [end - first, width]."""
        assert self.first <= first <= end <= self.end, "nothing is known there"
        return widened(self._values[first - self.first : end - self.first])
