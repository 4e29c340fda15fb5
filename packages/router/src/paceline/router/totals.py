"""A request's total outcome when several verifiers had a part in it."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.message import Message

from paceline.v1 import generation_pb2

MAX_COUNT = 2**32 - 1  # of the fields' type
_SUMS = ("steps", "nodes", "verify_s", "plain_s", "wait_s", "prefill_s")
_CREDIT_SUMS = ("proposed", "accepted", "stale", "refused")


def merge_outcomes(
    outcomes: Sequence[generation_pb2.Outcome], num_tokens: int, elapsed_s: float
) -> generation_pb2.Outcome:
    """Sums of outcomes that follow one another in one request.

    Args:
        outcomes: segments reported by verifiers that were lost, and the last verifier's total. What a lost
            one did after its last report is not in them.
        num_tokens: tokens relayed, which are known without reports.
        elapsed_s: wall time of the whole request, waiting for another verifier included.
    """
    merged = generation_pb2.Outcome(
        tokens=num_tokens,
        elapsed_s=elapsed_s,
        prompt_tokens=max((outcome.prompt_tokens for outcome in outcomes), default=0),
    )
    credits: dict[tuple[str, str], generation_pb2.DrafterCredit] = {}
    for outcome in outcomes:
        _add(merged, outcome, _SUMS)
        for credit in outcome.drafters:
            key = (credit.drafter_id, credit.strategy)
            if key not in credits:
                credits[key] = generation_pb2.DrafterCredit(
                    drafter_id=credit.drafter_id, strategy=credit.strategy, drafter_name=credit.drafter_name
                )
            _add(credits[key], credit, _CREDIT_SUMS)
    merged.drafters.extend(credits.values())
    return merged


def _add(total: Message, part: Message, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(total, name) + getattr(part, name)
        setattr(total, name, min(value, MAX_COUNT) if isinstance(value, int) else value)
