"""The order in which systems are asked: in rotation, turn by turn. What changes on the machine then hits all alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from figures import OFF, Crowd, Measurement
from questions import Question

SETTLE_S = 0.05  # for threads that still spin after the answer before

Messages = tuple[tuple[str, str], ...]  # (role, content)


class BenchError(Exception):
    """The comparison can't go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a system answered, and in what time: from the messages to the last of the text, prefill included."""

    ids: tuple[int, ...]
    text: str
    seconds: float
    prompt_tokens: int
    steps: int = 0


Asker = Callable[[Messages, int, str], Awaitable[Reply]]
"""Asks one system: messages, most new tokens, and the memory's name. Drafters remember nothing across two names."""


@dataclass
class Rounds:
    """Asks `askers`, by name of the system, the same questions.

    The prompts of later turns are made of the answers of paceline_off, for every system: the prompts are the same even
    where another system's answer differs.

    Args:
        progress: called after each answer with what was answered.
        prompts: by question and turn; filled by `alternate`, used by `crowd`.
    """

    questions: Sequence[Question]
    askers: Mapping[str, Asker]
    max_new_tokens: int
    progress: Callable[[str], None] = lambda _what: None
    prompts: dict[tuple[str, int], Messages] = field(default_factory=dict)
    measured: list[Measurement] = field(default_factory=list)
    crowds: list[Crowd] = field(default_factory=list)

    async def alternate(self, repeat: int) -> None:
        """Every question to every system, one at a time. Adds to `measured` a turn at a time, all systems together."""
        orders = self._orders(repeat)
        for question in self.questions:
            messages: Messages = ()
            for turn, content in enumerate(question.turns):
                messages = (*messages, ("user", content))
                self.prompts[question.question_id, turn] = messages
                replies: dict[str, Reply] = {}
                for system in next(orders):
                    await asyncio.sleep(SETTLE_S)
                    replies[system] = await self._ask(system, question, turn, f"alone-{repeat}")
                _check_prompts(question, turn, replies)
                self.measured += [
                    Measurement(
                        system,
                        question.question_id,
                        question.group,
                        turn,
                        repeat,
                        replies[system].ids,
                        replies[system].seconds,
                        replies[system].steps,
                    )
                    for system in self.askers
                ]
                messages = (*messages, ("assistant", replies[OFF].text))

    async def crowd(self, system: str, concurrency: int, repeat: int) -> None:
        """All questions to one system, so many at once; a question's turns stay in order. Needs `alternate` before."""
        expected = {m.answer: m.ids for m in self.measured if m.system == OFF}
        waiting = iter(self.questions)
        tokens = same = 0

        async def ask_on() -> None:
            nonlocal tokens, same
            for question in waiting:
                for turn in range(len(question.turns)):
                    reply = await self._ask(system, question, turn, f"{concurrency}-at-once-{repeat}")
                    tokens += len(reply.ids)
                    same += reply.ids == expected[question.question_id, turn]

        await asyncio.sleep(SETTLE_S)
        started = time.perf_counter()
        await asyncio.gather(*(ask_on() for _ in range(concurrency)))
        seconds = time.perf_counter() - started
        self.crowds.append(Crowd(concurrency, system, repeat, tokens, seconds, same, len(expected)))

    async def _ask(self, system: str, question: Question, turn: int, memory: str) -> Reply:
        prompt = self.prompts[question.question_id, turn]
        try:
            # Each system has memories of its own: it is not to find a prompt in the cache that another has read.
            reply = await self.askers[system](prompt, self.max_new_tokens, f"{system}-{memory}")
        except BenchError as error:
            raise BenchError(f"{system}, question {question.question_id}, turn {turn + 1}: {error}") from error
        self.progress(f"{system}: {question.group} {question.question_id}")
        return reply

    def _orders(self, repeat: int) -> Iterator[list[str]]:
        systems = list(self.askers)
        start = repeat
        while True:
            first = start % len(systems)
            yield systems[first:] + systems[:first]
            start += 1


def _check_prompts(question: Question, turn: int, replies: Mapping[str, Reply]) -> None:
    lengths = {system: reply.prompt_tokens for system, reply in replies.items()}
    if len(set(lengths.values())) > 1:
        raise BenchError(
            f"question {question.question_id}, turn {turn + 1}: the prompts differ in length ({lengths}), so "
            "the speeds can't be compared"
        )
