"""How many candidates a step verifies, and how much of a prompt it reads.

A step of n candidates over S sessions commits about S + Σ values tokens and takes T(S + n) seconds. Granting the n most
valuable candidates of the whole batch that make tokens per second greatest shrinks the trees by itself as the batch
grows, and to nothing where speculation doesn't pay (the idea of OPT-Tree and SpecDec++'s cost, over a batch).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from paceline.verifier.trie import Candidate

MAX_PREFILL_ROWS = 256  # more are hardly cheaper each, and keep newcomers waiting
MIN_PREFILL_ROWS = 16
MAX_STRETCH = 3.0  # a step that reads a prompt takes at most this much longer for those who are decoding


def grant(
    candidates: Mapping[int, Sequence[Candidate]],
    base_rows: int,
    seconds: Callable[[int], float],
    max_nodes: int,
) -> dict[int, int]:
    """Number of candidates for each session.

    Args:
        candidates: by session id, best first, as `CandidateTrie.plan` returns them. Sessions without candidates are
            in it too.
        base_rows: rows that are in the step anyway.
        seconds: cost of a forward pass by its rows.
        max_nodes: over the whole batch.
    """
    ranked = sorted(
        ((candidate.value, session_id) for session_id, planned in candidates.items() for candidate in planned),
        key=lambda pair: -pair[0],
    )[:max_nodes]
    expected_tokens = float(len(candidates))
    best_rate = expected_tokens / seconds(max(1, base_rows))
    best_count = 0
    for count, (value, _session_id) in enumerate(ranked, start=1):
        expected_tokens += value
        rate = expected_tokens / seconds(base_rows + count)
        if rate > best_rate:
            best_rate, best_count = rate, count
    granted = dict.fromkeys(candidates, 0)
    for _value, session_id in ranked[:best_count]:
        granted[session_id] += 1
    return granted


def prefill_rows(decoding_rows: int, usual_s: float, seconds: Callable[[int], float]) -> int:
    """Prompt tokens to read in a step beside `decoding_rows` rows of sessions that are decoding.

    As many as their users can bear: the gap between two of their tokens grows by MAX_STRETCH at most, but a prompt is
    always read at MIN_PREFILL_ROWS a step.

    Args:
        decoding_rows: 0 if nobody waits for a next token.
        usual_s: that gap when no prompt is read.
        seconds: cost of a step that reads a prompt, by its rows.
    """
    if decoding_rows == 0:
        return MAX_PREFILL_ROWS
    limit_s = MAX_STRETCH * usual_s
    low, high = MIN_PREFILL_ROWS, MAX_PREFILL_ROWS
    while low < high:
        middle = (low + high + 1) // 2
        if seconds(decoding_rows + middle) <= limit_s:
            low = middle
        else:
            high = middle - 1
    return low
