"""How much of a target's real text each vocabulary bridge lets a drafter with another vocabulary say.

The target's own greedy answers are the text; `oracle.py` simulates a drafter that knows it, so that all that is lost is
lost by the bridge.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from math import ceil

from oracle import Survival, survival
from questions import Question
from rounds import Asker, Messages

from paceline.drafter.vocabulary import BRIDGES
from paceline.wire.errors import PacelineError
from paceline.wire.vocabulary.base import Vocabulary
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

KINDS = {
    "prose": ("writing", "roleplay", "humanities", "stem", "summarization"),
    "code": ("coding",),
}
MAX_ANSWER = 512  # tokens: a small model repeats itself in a longer one
AT_ONCE = 8
LEARNT_TOKENS = 5000  # after which a bridge that learns is looked at again


@dataclass(frozen=True)
class Texts:
    """`answers` by kind, in the target's vocabulary; `tokenizer_json` is the content of that file of the target's."""

    answers: dict[str, list[list[int]]]
    tokenizer_json: str


async def collect_texts(
    ask: Asker,
    questions: Sequence[Question],
    num_tokens: int,
    eos: frozenset[int],
    tokenizer_json: str,
    say: Callable[[str], None] = lambda _what: None,
) -> Texts:
    """Answers to the questions of each kind, about so many tokens of each kind.

    Several questions are asked at once: answers don't depend on that. No more than may be needed, for answers are long.
    """
    answers: dict[str, list[list[int]]] = {}
    for kind, categories in KINDS.items():
        waiting = deque(question for question in questions if question.category in categories)
        found: list[list[int]] = []
        while waiting and (missing := num_tokens - sum(map(len, found))) > 0:
            say(f"{kind} for bridges: {num_tokens - missing} of {num_tokens} tokens")
            batch = [waiting.popleft() for _ in range(min(AT_ONCE, len(waiting), ceil(missing / MAX_ANSWER)))]
            for text in await asyncio.gather(*(_answers(ask, question, missing) for question in batch)):
                found.append([token for token in text if token not in eos])
        answers[kind] = found
    return Texts(answers, tokenizer_json)


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
    texts: Texts, draft_tokenizer_json: str, names: Iterable[str]
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Acceptance of an oracle's drafts by bridge: in each kind of text, and in all of it once a bridge has seen some.

    Args:
        texts: of the target.
        draft_tokenizer_json: content of the drafter's tokenizer.json.
        names: of bridges.

    Returns:
        `{name: {"prose", "code", "after_5000"}}`, a key being absent if there is too little text for it; and a line for
        each bridge that can't join the two vocabularies, with the reason.
    """
    target, draft = TokenizerVocabulary(texts.tokenizer_json), TokenizerVocabulary(draft_tokenizer_json)
    figures: dict[str, dict[str, float]] = {}
    refusals: list[str] = []
    for name in names:
        try:
            shares = {
                kind: _survival(name, target, draft, answers) for kind, answers in texts.answers.items() if answers
            }
            mixed = list(chain.from_iterable(zip_longest(*texts.answers.values(), fillvalue=())))
            later = _survival(name, target, draft, mixed, LEARNT_TOKENS)
        except PacelineError as error:
            refusals.append(f"bridge {name}: {error.message}")
            continue
        if later.proposed:
            shares[f"after_{LEARNT_TOKENS}"] = later
        figures[name] = {kind: round(found.acceptance, 4) for kind, found in shares.items()}
    return figures, refusals


def _survival(
    name: str, target: Vocabulary, draft: Vocabulary, answers: Iterable[Sequence[int]], skipped: int = 0
) -> Survival:
    """Through a bridge that is new, over answers one after the other; those within the first `skipped` tokens teach it
    and don't count."""
    kind = BRIDGES[name](target, draft)
    seen, total = 0, Survival()
    for answer in answers:
        if len(answer) < 2:
            continue
        found = survival(kind, target, draft, answer[:1], answer[1:])
        total = total + found if seen >= skipped else total
        seen += len(answer)
    return total
