"""What a segment was worth.

A policy adds up rewards and compares their means, so a reward has to be something whose mean matters. Tokens per second
over all traffic is tokens over the sum of times, so that is the time that a segment took, not its speed: a mean of
speeds is decided by the few requests that any drafter answers several times as fast, where little time is left to save.
"""

from __future__ import annotations

import math

MAX_SPEED = 8.0
LEAST_SPEED = 0.5  # slower is no worse: whoever is taken for half as fast as plain decoding isn't chosen
MAX_REWARD = 2.0 - 1.0 / MAX_SPEED


def measured_speed(tokens: int, verify_s: float, wait_s: float, plain_s: float) -> float | None:
    """Speed relative to plain decoding: plain_s / (verify_s + wait_s), in [0, 8]; 1 is as fast as without
    drafters.

    Tokens per second of the segment divided by what plain decoding would have given, in which the tokens
    cancel. It is clipped so that no single report, wrong or forged, can decide for long.

    Args:
        tokens: committed in the segment.
        verify_s: forward time of the target that it took.
        wait_s: time the verifier waited for drafts, which plain decoding would not have.
        plain_s: forward time that the same tokens would have taken by plain decoding, from the cost model.

    Returns:
        None if the segment says nothing: no tokens, no measured time, or figures that can't be.
    """
    spent_s = verify_s + wait_s
    if tokens <= 0 or not math.isfinite(spent_s) or not math.isfinite(plain_s):
        return None
    if verify_s <= 0.0 or wait_s < 0.0 or plain_s <= 0.0:
        return None
    return min(MAX_SPEED, plain_s / spent_s)


def reward_of(speed: float) -> float:
    """One and the share of plain decoding's time that was saved, in [0, 1.875]: 1 at plain speed, 1.5 at twice that, 0
    at half of it or less.

    >>> reward_of(1.0), reward_of(2.0), reward_of(0.8), reward_of(0.0)
    (1.0, 1.5, 0.75, 0.0)
    """
    return 2.0 - 1.0 / min(MAX_SPEED, max(LEAST_SPEED, speed))


def speed_of(reward: float) -> float:
    """The speed over segments with this mean reward: what all their tokens took, not the mean of their speeds."""
    return 1.0 / (2.0 - min(MAX_REWARD, max(0.0, reward)))
