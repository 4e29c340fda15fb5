"""From the verifier's counters and the answers to what a mix of drafters brought: pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from counters import Counters
from figures import OFF, ON, Measurement, different, identical, tokens_per_step

TESTED = "paceline:spec_decode_num_draft_tokens_per_pos_total"
RIGHT = "paceline:spec_decode_num_accepted_tokens_per_pos_total"
TESTED_OF = "paceline:drafter_draft_tokens_per_pos_total"
RIGHT_OF = "paceline:drafter_accepted_tokens_per_pos_total"
SECONDS = "paceline:draft_seconds_sum"
BYTES = "paceline:draft_stream_bytes_total"
DRAFTS = "paceline:spec_decode_num_drafts_total"
STEPS = "paceline:session_steps_total"


def mix_figures(counted: Counters, measured: Sequence[Measurement]) -> dict[str, Any]:
    """Of one mix.

    Args:
        counted: by the verifier, while the mix was at work.
        measured: the mix's answers (ON), and those without speculation (OFF).

    Returns:
        `tokens_per_step`, also by group; a first token comes from the prompt's pass and doesn't count.
        `acceptance_by_depth`: of the candidates verified at depth 1, 2, … whose parent was right, the share that was
            right; `tested_by_depth`: how many candidates that is the share of.
        `tokens_by_depth`: those that were right, for each step; 1 and their sum are tokens per step.
        `drafted_steps`: share of steps that had candidates; in the others drafters had none, or were late.
        `draft_ms_per_token`, `wire_bytes_per_token`: of all drafters together, for each token that was committed.
        `identical`: [answers with the same tokens as without speculation, answers]; `different`: the others.
        `drafters`: each one's part, by its strategies.
    """
    answers = [m for m in measured if m.system == ON]
    tokens = sum(len(m.ids) for m in answers)
    by_group = tokens_per_step(answers)
    return {
        "tokens_per_step": round(by_group["all"], 3),
        "tokens_per_step_by_group": {group: round(value, 3) for group, value in by_group.items() if group != "all"},
        "acceptance_by_depth": _shares(counted.by_position(RIGHT), counted.by_position(TESTED)),
        "tested_by_depth": counted.by_position(TESTED),
        "tokens_by_depth": [round(right / max(1.0, counted.total(STEPS)), 4) for right in counted.by_position(RIGHT)],
        "drafted_steps": round(counted.total(DRAFTS) / max(1.0, counted.total(STEPS)), 4),
        "draft_ms_per_token": round(1e3 * counted.total(SECONDS) / tokens, 4),
        "wire_bytes_per_token": round(counted.total(BYTES) / tokens, 1),
        "identical": identical(measured)["paceline"],
        "different": different(measured, OFF, ON),
        "tokens": tokens,
        "drafters": {name: _of_drafter(counted, name, tokens) for name in _names(counted)},
    }


def _names(counted: Counters) -> list[str]:
    return sorted({labels["drafter"] for labels in counted.labels(BYTES)})


def _of_drafter(counted: Counters, name: str, tokens: int) -> dict[str, Any]:
    strategies = {labels["strategy"] for labels in counted.labels(TESTED_OF) if labels["drafter"] == name}
    return {
        "draft_ms_per_token": round(1e3 * counted.total(SECONDS, drafter=name) / tokens, 4),
        "wire_bytes_per_token": {
            direction: round(counted.total(BYTES, drafter=name, direction=direction) / tokens, 1)
            for direction in ("received", "sent")
        },
        "strategies": {strategy: _of_strategy(counted, name, strategy) for strategy in sorted(strategies)},
    }


def _of_strategy(counted: Counters, drafter: str, strategy: str) -> dict[str, Any]:
    tested = counted.by_position(TESTED_OF, drafter=drafter, strategy=strategy)
    right = counted.by_position(RIGHT_OF, drafter=drafter, strategy=strategy)
    return {
        "tested": sum(tested),
        "right": sum(right),
        "acceptance": round(sum(right) / sum(tested), 4),
        "acceptance_by_depth": _shares(right, tested),
    }


def _shares(right: Sequence[int], tested: Sequence[int]) -> list[float]:
    """Below a depth at which nothing was right nothing was tested, so there is something to divide by."""
    return [round(ones / of, 4) for ones, of in zip_longest(right, tested, fillvalue=0) if of]
