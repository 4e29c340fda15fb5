"""What the request's noise says about siblings in a tree: which of them is likely to be the sampled token.

At a temperature the target says `argmax(log p + noise)`, and the noise is known before the target has run
(`paceline.wire.noise`). If a strategy's probabilities c_i were the target's, only the sibling with the greatest
log c_i + g_i could be said, unless one of the tokens that were not proposed comes out higher; those have
r = 1 - Σ c_i between them, the greatest of their scores has a Gumbel law around log r, and so

    P(best is said | noise) = exp(-r / (c_b e^g_b)),    P(any other sibling is said | noise) = 0.

They are not the target's, far from it: 0.5 may mean "half of the target's distribution", or "in every other such place
the target can say nothing else", where noise is no news. So the noise is weighed as evidence, as in a conditional
logit (McFadden 1974): with scores log c_i + WEIGHT · g_i + what isn't known of the target, itself Gumbel noise,

    P(i is said | noise) = c_i e^(WEIGHT g_i) / (Σ_j c_j e^(WEIGHT g_j) + r Γ(1 - WEIGHT)),

where Γ(1 - WEIGHT) is the mean of e^(WEIGHT g), for the tokens whose noise isn't looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Greatest likelihood of 5,300 sampled tokens of a small chat model at temperature 0.8, given claims of `suffix` and
# `recycling`: -1.01 nats each, against -1.04 without noise, and below -1.36 if claims were taken for the target's own.
WEIGHT = 0.3
_MEAN = math.gamma(1.0 - WEIGHT)


def claims(probabilities: Sequence[float], noise: Sequence[float]) -> list[float]:
    """Probability that each of several siblings is the sampled token, given its noise.

    Args:
        probabilities: [k] without knowledge of the noise, each above 0; if they add up to more than 1 they are
            scaled down to it.
        noise: [k] the shared noise of each.

    Returns:
        [k] above 0, together at most 1.
    """
    total = math.fsum(probabilities)
    weights = [probability * math.exp(WEIGHT * g) for probability, g in zip(probabilities, noise, strict=True)]
    everything = math.fsum(weights) + max(1.0 - total, 0.0) * _MEAN
    return [weight / everything for weight in weights]
