"""Figures that count each question alike, however long its answer is: pure arithmetic.

`figures.py` divides all tokens of a group by all its time, as a server's owner would. Here a question has a speed of
its own: the tokens of all its turns divided by their time, prefill included. How these differ from one another says
what a user may meet; their mean is what Spec-Bench reports.

Spec-Bench (hemingkx/Spec-Bench, `evaluation/speed.py` and `eval.py`) defines: tokens per second of a subtask, the mean
of its questions' speeds; the speedup, that mean with speculation divided by that mean without; #MAT, the mean over all
verification steps of the tokens that a step added, its own one included. Over several runs: mean and standard
deviation of the runs. #MAT is `figures.tokens_per_step`.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from distribution import distribution, mean_and_deviation
from figures import OFF, ON, Measurement, by_key, grouped, tokens_per_step, whole_repeats

Speeds = dict[str, float]  # by question


def question_speeds(measured: Sequence[Measurement]) -> Speeds:
    """Of one system in one repeat: each question's tokens per second."""
    return {
        question: sum(len(m.ids) for m in turns) / sum(m.seconds for m in turns)
        for question, turns in by_key(measured, lambda m: m.question_id).items()
    }


def by_question(measured: Sequence[Measurement]) -> dict[str, Any]:
    """How the questions of each group differ: `tokens_per_second` by system, and `on_over_off`.

    A question's speed is the median of its speeds in the repeats, and its ratio the quotient of two of these.
    """
    medians: dict[str, dict[str, Speeds]] = {}
    for system, its in by_key(measured, lambda m: m.system).items():
        medians[system] = {group: _medians(members) for group, members in grouped(its).items()}
    result: dict[str, Any] = {
        "tokens_per_second": {
            system: {group: distribution(list(speeds.values())) for group, speeds in groups.items()}
            for system, groups in medians.items()
        }
    }
    if ON in medians and OFF in medians:
        result["on_over_off"] = {
            group: distribution([speed / medians[OFF][group][question] for question, speed in speeds.items()])
            for group, speeds in medians[ON].items()
        }
    return result


def spec_bench(measured: Sequence[Measurement]) -> dict[str, Any] | None:
    """Spec-Bench's figures by group, of the repeats that cover every answer; None without speculation on and off.

    `mean_accepted_tokens`; `tokens_per_second` by system, and `speedup`: mean, sd and runs.
    """
    means = [_means(repeat) for repeat in whole_repeats(measured)]
    if not means or not all(system in of_repeat for of_repeat in means for system in (ON, OFF)):
        return None
    groups = list(means[0][ON])
    return {
        "mean_accepted_tokens": {group: round(value, 4) for group, value in tokens_per_step(measured).items()},
        "tokens_per_second": {
            system: {group: mean_and_deviation([one[system][group] for one in means]) for group in groups}
            for system in (OFF, ON)
        },
        "speedup": {group: mean_and_deviation([one[ON][group] / one[OFF][group] for one in means]) for group in groups},
    }


def _means(repeat: Sequence[Measurement]) -> dict[str, Speeds]:
    """By system and group: the mean of the questions' speeds."""
    result: dict[str, Speeds] = {}
    for system, its in by_key(repeat, lambda m: m.system).items():
        result[system] = {}
        for group, members in grouped(its).items():
            speeds = question_speeds(members).values()
            result[system][group] = sum(speeds) / len(speeds)
    return result


def _medians(members: Sequence[Measurement]) -> Speeds:
    repeats = [question_speeds(repeat) for repeat in by_key(members, lambda m: m.repeat).values()]
    questions = dict.fromkeys(question for repeat in repeats for question in repeat)
    return {question: median(one[question] for one in repeats if question in one) for question in questions}
