"""Prompts that the target makes up itself, for those who have none, or too few of a kind.

An instructed model that is given its chat template up to where the user's words begin goes on with what a user might
say (Xu et al. 2024, *Magpie: Alignment Data Synthesis from Scratch by Prompting Aligned LLMs with Nothing*). So prompts
need no data, and are spread over what the target was made for. An opening, such as "Translate into French:", begins the
user's words and so chooses the kind. After an answer the same gives the user's next words: a conversation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from paceline.trainer.data.answering import Question, seed_of
from paceline.trainer.data.prompts import Message, Prompt
from paceline.trainer.data.rows import Answer
from paceline.trainer.data.target import Target
from paceline.wire.errors import PacelineError, Reason

SOURCE = "invented"
MARK = "\ue000user's words\ue000"  # characters for private use: in no template
MIN_CHARACTERS = 3

Ask = Callable[[Question], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Inventing:
    """What is made up.

    Attributes:
        max_turns: conversations have 1 to so many questions, as many of each length.
        openings: every other conversation begins with one of these, in turn.
        seed: of all noise.
    """

    max_turns: int = 1
    openings: Sequence[str] = ()
    seed: int = 0

    def num_turns(self, number: int) -> int:
        """Questions of conversation `number`."""
        return 1 + number // 2 % self.max_turns

    def opening(self, number: int) -> str:
        """How its first question begins; "" leaves that to the target."""
        return self.openings[number // 2 % len(self.openings)] if number % 2 and self.openings else ""


async def invent(target: Target, number: int, inventing: Inventing, ask: Ask, answer: Ask) -> Prompt | None:
    """Conversation `number`, the same each time; None if one of its questions doesn't end, or says nothing.

    Args:
        ask: has the target go on with noise, as far as a question may be long.
        answer: has the target answer as it does at serving.

    Raises:
        PacelineError: NO_CHAT_TEMPLATE, or MALFORMED if the template refuses the messages.
    """
    messages: list[Message] = []
    name = f"{SOURCE}-{inventing.seed}-{number:06}"
    for turn in range(inventing.num_turns(number)):
        opening = "" if turn else inventing.opening(number)
        ids, end = user_turn(target, messages, opening)
        question = _question(f"{name}-{turn}", ids, inventing.seed)
        words = spoken(target, opening, await ask(question), end)
        if words is None:
            return None
        messages.append(Message("user", words))
        if turn + 1 < inventing.num_turns(number):
            asked = _question(name, target.chat_ids([asdict(message) for message in messages]), inventing.seed)
            said = target.tokenizer.decode((await answer(asked)).answer_ids, skip_special_tokens=True).strip()
            if not said:
                return None
            messages.append(Message("assistant", said))
    return Prompt(name, SOURCE, tuple(messages))


def user_turn(target: Target, messages: Sequence[Message], opening: str = "") -> tuple[list[int], str]:
    """Tokens up to where the user goes on, and the text that ends the user's words in this template.

    Raises:
        PacelineError: NO_CHAT_TEMPLATE, or MALFORMED if the template refuses the messages.
    """
    target.chat_ids([{"role": "user", "content": MARK}])  # says what is wrong with the template
    conversation = [asdict(message) for message in (*messages, Message("user", MARK))]
    try:
        text = target.tokenizer.apply_chat_template(conversation, tokenize=False)
    except Exception as error:  # a template is a program of the model's makers and may raise anything
        why = (
            f"the chat template of {target.name} refuses a conversation ({type(error).__name__}); take single questions"
        )
        raise PacelineError(Reason.MALFORMED, why, field="messages") from error
    before, mark, after = text.rpartition(MARK)
    if not mark:
        why = f"the chat template of {target.name} changes the user's words; bring prompts of your own"
        raise PacelineError(Reason.MALFORMED, why, field="messages")
    return list(target.tokenizer(before + opening, add_special_tokens=False).input_ids), after.strip()


def spoken(target: Target, opening: str, said: Answer, end: str) -> str | None:
    """The user's words; None if they were cut off, or are none."""
    text = target.tokenizer.decode(said.answer_ids, skip_special_tokens=False)
    words, ended, _ = text.partition(end) if end else (text, "", "")
    if not ended:
        if said.finish != "stop":
            return None
        words = target.tokenizer.decode(said.answer_ids, skip_special_tokens=True)
    words = (opening + words).strip()
    complete = len(words) - len(opening) >= MIN_CHARACTERS and "\ufffd" not in words and MARK not in words
    return words if complete else None


def _question(name: str, ids: Sequence[int], seed: int) -> Question:
    return Question(name, SOURCE, np.array(ids, np.int32), seed_of(name, seed))
