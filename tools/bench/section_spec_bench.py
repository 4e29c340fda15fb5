"""Spec-Bench's figures of a run, and in what they are not Spec-Bench's."""

from __future__ import annotations

from collections.abc import Iterator

from figures import OFF, ON
from page import Block, Cell, Table, Text
from result_speed import Runs, SpecBench
from suite_words import runs_words


def spec_bench_blocks(its: SpecBench, runs: int) -> Iterator[Block]:
    """A table, and what is the same and what differs."""
    rows: list[list[Cell | str]] = [
        [
            group.replace("_", " ") if group != "all" else "overall",
            f"{its.mean_accepted_tokens[group]:.2f}" if group in its.mean_accepted_tokens else "–",
            *(_mean(its.tokens_per_second.get(system, {}).get(group), ".1f") for system in (OFF, ON)),
            _mean(its.speedup.get(group), ".2f"),
        ]
        for group in its.speedup
    ]
    yield Table(
        "The same run by Spec-Bench's definitions",
        ["subtask", "#MAT", "tokens/s, off", "tokens/s, on", "speedup"],
        rows,
        f"Means over {runs_words(runs)}; small: standard deviation (n – 1).",
        strong_rows=frozenset({0}),
    )
    yield Text(
        "Spec-Bench (evaluation/speed.py) gives each question a speed, all its turns' tokens divided by their time, "
        "and a "
        "subtask the mean of its questions' speeds; the speedup is that mean with speculation divided by that mean "
        "without. #MAT is the mean over all verification steps of the tokens that a step added, the verifier's own one "
        "included: 1 is plain decoding. What is the same: those definitions, greedy decoding, one request at a time, "
        "prompts' reading included. What differs: the baseline is Paceline itself with speculation off, not "
        "transformers; "
        "both are measured in one run, a question each in turn; tokens are counted by their ids on both sides, where "
        "Spec-Bench counts the baseline's by encoding its text again; later turns follow the same history in both; the "
        "verifier verifies trees of several drafters, as many candidates as pay on this machine; tokens behind the end "
        "of "
        "an answer are never counted; and Spec-Bench's own runs have up to 1,024 new tokens, on other models and "
        "machines. "
        "So these figures may not be put beside its leaderboard.",
        quiet=True,
    )


def _mean(value: Runs | None, style: str) -> Cell:
    if value is None:
        return Cell("–")
    return Cell(format(value.mean, style), below="" if value.sd is None else f"± {value.sd:{style}}")
