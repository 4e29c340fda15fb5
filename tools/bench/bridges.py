"""How much of a target's real text each vocabulary bridge lets a drafter with another vocabulary say.

The target's own greedy answers are the text; `oracle.py` simulates a drafter that knows it, so that all that is lost is
lost by the bridge.
"""

from __future__ import annotations

import asyncio
import importlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from questions import Question
from rounds import Asker, Messages

from paceline.wire.errors import PacelineError

KINDS = {
    "prose": ("writing", "roleplay", "humanities", "stem", "summarization"),
    "code": ("coding",),
}
MAX_ANSWER = 512  # tokens: a small model repeats itself in a longer one
AT_ONCE = 8
LEARNT_TOKENS = 5000  # after which a bridge that learns is looked at again

Acceptance = Callable[[str, Sequence[int], str, str], float]


@dataclass(frozen=True)
class Texts:
    """`ids` by kind, in the target's vocabulary; `tokenizer_json` is the content of that file of the target's."""

    ids: dict[str, list[int]]
    tokenizer_json: str


async def collect_texts(
    ask: Asker,
    questions: Sequence[Question],
    num_tokens: int,
    eos: frozenset[int],
    tokenizer_json: str,
    say: Callable[[str], None] = lambda _what: None,
) -> Texts:
    """Answers to the questions of each kind, one after the other, up to so many tokens of each kind.

    Several questions are asked at once: answers don't depend on that. No more than may be needed, for answers are long.
    """
    ids: dict[str, list[int]] = {}
    for kind, categories in KINDS.items():
        waiting = deque(question for question in questions if question.category in categories)
        found: list[int] = []
        while waiting and (missing := num_tokens - len(found)) > 0:
            say(f"{kind} for bridges: {len(found)} of {num_tokens} tokens")
            batch = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting), ceil(missing / MAX_ANSWER)))]
            for text in await asyncio.gather(*(_answers(ask, question, missing) for question in batch)):
                found += [token for token in text if token not in eos]
        ids[kind] = found[:num_tokens]
    return Texts(ids, tokenizer_json)


async def _answers(ask: Asker, question: Question, most: int) -> list[int]:
    """To its turns, until there are enough tokens."""
    messages: Messages = ()
    ids: list[int] = []
    for content in question.turns:
        messages = (*messages, ("user", content))
        reply = await ask(messages, min(most - len(ids), MAX_ANSWER), "bridges")
        messages = (*messages, ("assistant", reply.text))
        ids += reply.ids
        if len(ids) >= most:
            break
    return ids


def measure_bridges(
    texts: Texts, draft_tokenizer_json: str, names: Iterable[str], acceptance: Acceptance
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Acceptance by bridge: of each kind of text, and of prose after a bridge has seen some of it.

    Args:
        texts: of the target.
        draft_tokenizer_json: content of the drafter's tokenizer.json.
        names: of bridges.
        acceptance: `oracle.acceptance`, a mean over the tokens of a text.

    Returns:
        `{name: {"prose", "code", "after_5000"}}`, a key being absent if there is too little text for it; and a line for
        each bridge that can't join the two vocabularies, with the reason.
    """
    figures: dict[str, dict[str, float]] = {}
    refusals: list[str] = []
    for name in names:

        def share(ids: Sequence[int], name: str = name) -> float:
            return acceptance(name, ids, texts.tokenizer_json, draft_tokenizer_json)

        try:
            of_bridge = {kind: share(ids) for kind, ids in texts.ids.items() if ids}
            prose = texts.ids["prose"]
            if (later := len(prose) - LEARNT_TOKENS) > 0:
                # Of the whole text, less what the beginning had of it.
                whole = of_bridge["prose"] * len(prose)
                of_bridge["after_5000"] = (whole - share(prose[:LEARNT_TOKENS]) * LEARNT_TOKENS) / later
        except PacelineError as error:
            refusals.append(f"bridge {name}: {error.message}")
            continue
        figures[name] = {kind: round(value, 4) for kind, value in of_bridge.items()}
    return figures, refusals


def find_oracle() -> Acceptance | None:
    """`oracle.acceptance`, if there is an oracle."""
    try:
        oracle: Any = importlib.import_module("oracle")
    except ModuleNotFoundError as error:
        if error.name != "oracle":
            raise
        return None
    found: Acceptance = oracle.acceptance
    return found
