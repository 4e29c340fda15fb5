"""What the request's noise says about siblings in a tree: which of them can be the sampled token.

At a temperature the target says `argmax(log p + noise)`, and the noise is known before the target has run
(`paceline.wire.noise`). So of siblings that a strategy gave probabilities c_i, only the one with the greatest
log c_i + g_i can be said, if the strategy is right about p: it is, unless one of the tokens that were not proposed
comes out higher. Those have r = 1 - Σ c_i between them, and the greatest of their scores has a Gumbel law around log r
(the maximum of independent Gumbels is one): P(all below x) = exp(-r e^-x). Hence, for the best sibling b,

    P(b is said | noise) = exp(-r / (c_b e^g_b)),    P(any other sibling is said | noise) = 0.

A strategy is not right about p, though: 0.7 may mean "70% of the target's distribution" or "in 7 of 10 such places
the target can't say anything else", where noise is no news. The claims are a mixture of both:

    claim_i = TRUST · P(i is said | noise) + (1 - TRUST) · c_i.

Both parts are c_i on average over the noise, so the mixture is: what calibration has learned stays true.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

TRUST = 0.5  # share of places where a claim is the target's own probability, measured at temperature 0.8


def claims(probabilities: Sequence[float], noise: Sequence[float], trust: float = TRUST) -> list[float]:
    """Probability that each of several siblings is the sampled token, given its noise.

    Args:
        probabilities: [k] without knowledge of the noise, each above 0; if they add up to more than 1 they are
            scaled down to it.
        noise: [k] the shared noise of each.

    Returns:
        [k] above 0, together at most 1.
    """
    total = math.fsum(probabilities)
    scale = 1.0 / max(total, 1.0)
    leftover = 1.0 - total * scale
    rates = [probability * math.exp(g) for probability, g in zip(probabilities, noise, strict=True)]
    best = max(range(len(rates)), key=rates.__getitem__)
    found = [(1.0 - trust) * scale * probability for probability in probabilities]
    found[best] += trust * math.exp(-leftover / (rates[best] * scale))
    return found
