"""TVD++: total variation as a policy gradient, with standardised rewards (Goel et al. 2024, arXiv:2403.00858).

    grad TVD = -E_q[r(x) grad log q(x)],   r(x) = 1 where p(x) > q(x), else 0

since sum q grad log q = 0. So TVD rewards what the student says too rarely. As in any policy gradient a baseline may be
taken off the reward without moving the expectation, and TVD++ standardises:

    grad TVD++ = -E_q[(r - mu) / sigma * grad log q],   mu = E_q[r],  sigma^2 = E_q[(r - mu)^2] = mu (1 - mu)

The authors draw x and take mu and sigma over a batch. Here the expectation over the vocabulary is exact and both
belong to the position, so nothing is drawn and the loss of a position depends on it alone. What remains of TVD++ then
is sigma: a position where the student gives next to nothing to what the target says (mu near 0), where TVD hardly
learns, counts 1 / sqrt(mu) times as much. Use it where `tvd` is too slow at the start.
"""

from __future__ import annotations

from torch import Tensor

from paceline.trainer.learning.objectives.lumped import lump
from paceline.trainer.learning.targets import Targets

SMALLEST_SIGMA = 0.05  # where both agree sigma is 0, and what is left of the reward is rounding


def tvd_pp(log_probs: Tensor, targets: Targets) -> Tensor:
    """The value of `tvd`, from 0 to 1 [n], with the gradient of TVD++; see `Objective`."""
    both = lump(log_probs, targets)
    q = both.q.detach()
    rewarded = (both.p > q).to(q.dtype)
    mu = (q * rewarded).sum(dim=-1, keepdim=True)
    sigma = (mu * (1.0 - mu)).clamp(min=0.0).sqrt().clamp(min=SMALLEST_SIGMA)
    surrogate = -(q * (rewarded - mu) / sigma * both.log_q).sum(dim=-1)
    value = (both.p - q).abs().sum(dim=-1) / 2
    return value + (surrogate - surrogate.detach())
