"""Hidden states of the target behind chosen decoder layers, as drafters are told them: values, and who gives them.

Layers are numbered as in Hello.feature_layers: 0 is what the first layer is given, L what the L-th gives, the last one
before the final norm. Numbers are bfloat16, kept as their bits, since numpy has no such type.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

Bits = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class FeatureSource:
    """What an engine can give: layers 0 to `num_layers`, each of `hidden_size` numbers."""

    num_layers: int
    hidden_size: int


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Hidden states at consecutive positions of a session.

    Attributes:
        first: position of the first row.
        layers: in the order of `values`.
        values: [n, layers, hidden].
    """

    first: int
    layers: tuple[int, ...]
    values: Bits

    @property
    def end(self) -> int:
        """The position behind the last row."""
        return self.first + len(self.values)

    def between(self, first: int, end: int) -> Features:
        """The rows at positions from `first` up to and without `end`, as far as they are there."""
        start = max(first, self.first)
        stop = max(start, min(end, self.end))
        return Features(start, self.layers, self.values[start - self.first : stop - self.first])


def take(rows: Bits, first_row: int, num_chain: int, accepted: tuple[int, ...]) -> Bits:
    """A session's own of a step's rows: its chain, then the accepted candidates in the order of their path.

    A copy: candidates were refused beside them, and a drafter that reads slowly shall not keep those alive.
    """
    behind = first_row + num_chain
    taken: Bits = rows[[*range(first_row, behind), *(behind + node for node in accepted)]]
    return taken


def bits_of(states: torch.Tensor) -> Bits:
    """Bits of any float tensor rounded to bfloat16, to the nearest, ties to even. It must be on the CPU."""
    bits: Bits = states.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16)
    return bits
