"""How likely the target found a token: from a row of logits, alone.

Each row is worked out by itself, with numpy and in one order, so that a token's figures have the same bits whatever
else is in the step: torch sums a lone row otherwise than several.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class TokenLogProbs:
    """Natural logarithms of probabilities at temperature 1, before any filter.

    Attributes:
        log_prob: of the token.
        top: the likeliest tokens at its place with theirs, the likeliest first, the lowest id of equal ones first.
    """

    log_prob: float
    top: tuple[tuple[int, float], ...] = ()


def log_probs_of(logits: npt.NDArray[np.float32], token: int, count: int) -> TokenLogProbs:
    """Of a token and of the `count` likeliest. logits: [vocab]."""
    greatest = logits.max()
    # Summed in float64: rounding of 50,000 terms would show in the fourth digit of what is nearly certain.
    normalizer = greatest + np.log(np.exp(logits - greatest).sum(dtype=np.float64))

    def log_prob(of: int) -> float:
        return float(np.float32(min(0.0, logits[of] - normalizer)))

    return TokenLogProbs(log_prob(token), tuple((other, log_prob(other)) for other in _best(logits, count)))


def _best(logits: npt.NDArray[np.float32], count: int) -> list[int]:
    """Ids of the greatest, greatest first, the lowest of equal ones first."""
    count = min(count, len(logits))
    if count == 0:
        return []
    least = np.partition(logits, len(logits) - count)[len(logits) - count]
    enough = np.flatnonzero(logits >= least)  # in the order of ids, which the stable sort keeps
    best: list[int] = enough[np.argsort(-logits[enough], kind="stable")][:count].tolist()
    return best
