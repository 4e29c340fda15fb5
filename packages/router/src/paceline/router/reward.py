"""What a segment was worth."""

from __future__ import annotations

import math

MAX_REWARD = 8.0


def reward_of(tokens: int, verify_s: float, wait_s: float, plain_s: float) -> float | None:
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
    return min(MAX_REWARD, plain_s / spent_s)
