"""What a live run found of its arms, as a table that `//tools/bench:routing --recorded` plays policies on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from choosing_figures import name_of
from figures import OFF, Measurement
from rounds import Messages

from paceline.cli.measure import request_for
from paceline.router.convert import prompt_from_proto
from paceline.router.reward import MAX_SPEED


def write_record(
    path: Path,
    measured: Sequence[Measurement],
    prompts: Mapping[tuple[str, int], Messages],
    policies: Sequence[str],
    temperature: float,
) -> None:
    """Writes a line for each answer: what each arm set by hand earned, and the prompt's features."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(measured, prompts, policies, temperature)))


def rows(
    measured: Sequence[Measurement],
    prompts: Mapping[tuple[str, int], Messages],
    policies: Sequence[str],
    temperature: float,
) -> Iterator[dict[str, Any]]:
    """In the order in which the answers were asked for. A reward is an answer's speed relative to plain decoding's,
    prefill included; nobody else was at the verifier."""
    seconds: dict[tuple[str, int, int], dict[str, float]] = {}
    for one in measured:
        if one.system not in policies:
            seconds.setdefault((one.question_id, one.turn, one.repeat), {})[one.system] = one.seconds / len(one.ids)
    for (question_id, turn, _repeat), by_system in seconds.items():
        request = request_for(list(prompts[question_id, turn]), max_tokens=1)
        yield {
            "speeds": {
                name_of(system): round(min(MAX_SPEED, by_system[OFF] / each), 4) for system, each in by_system.items()
            },
            "context": [round(value, 4) for value in prompt_from_proto(request).context(temperature, 0.0)],
        }
