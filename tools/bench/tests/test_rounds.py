"""In which order the systems are asked, and with which prompts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
import rounds as module
from figures import OFF, ON, PLAIN
from questions import Question
from rounds import BenchError, Messages, Reply, Rounds

QUESTIONS = [Question("a", "qa", ("One?", "Two?")), Question("b", "rag", ("Three?",)), Question("c", "qa", ("Four?",))]


@dataclass
class Fake:
    """Answers with its name; remembers what it was asked, and how many asked at once."""

    name: str
    extra_tokens: int = 0
    asked: list[tuple[Messages, str]] = field(default_factory=list)
    running: int = 0
    most_running: int = 0

    async def __call__(self, messages: Messages, max_new_tokens: int, memory: str) -> Reply:
        self.asked.append((messages, memory))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        await asyncio.sleep(0)
        self.running -= 1
        if messages[-1][1] == "Impossible?":
            raise BenchError("too long")
        ids = tuple(map(ord, messages[-1][1]))[:max_new_tokens]
        return Reply(ids, f"{self.name} says", 1.0, len(messages) + self.extra_tokens, 2)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SETTLE_S", 0.0)


def fakes(*names: str) -> dict[str, Fake]:
    return {name: Fake(name) for name in names}


async def test_each_system_is_first_in_its_turn() -> None:
    order: list[str] = []
    rounds = Rounds(QUESTIONS, fakes(PLAIN, OFF, ON), 3, lambda what: order.append(what.partition(":")[0]))
    await rounds.alternate(0)
    assert order[::3] == [PLAIN, OFF, ON, PLAIN]
    assert all(sorted(order[at : at + 3]) == sorted((PLAIN, OFF, ON)) for at in range(0, len(order), 3))
    await rounds.alternate(1)
    assert order[12] == OFF


async def test_all_get_the_same_prompts_with_the_history_of_speculation_off() -> None:
    systems = fakes(PLAIN, OFF, ON)
    await Rounds(QUESTIONS, systems, 3).alternate(0)
    prompts = [[messages for messages, _memory in system.asked] for system in systems.values()]
    assert prompts[0] == prompts[1] == prompts[2]
    assert prompts[0][1] == (("user", "One?"), ("assistant", f"{OFF} says"), ("user", "Two?"))


async def test_no_repeat_and_no_crowd_shares_a_memory_with_another() -> None:
    systems = fakes(OFF, ON)
    rounds = Rounds(QUESTIONS, systems, 3)
    for repeat in range(2):
        await rounds.alternate(repeat)
        await rounds.crowd(ON, 2, repeat)
        await rounds.crowd(ON, 3, repeat)
    assert len({memory for _messages, memory in systems[ON].asked}) == 6
    for memory in {memory for _messages, memory in systems[ON].asked}:
        asked = [messages for messages, where in systems[ON].asked if where == memory]
        assert len(asked) == len(set(asked)) == 4


async def test_measurements_say_what_was_answered() -> None:
    rounds = Rounds(QUESTIONS, fakes(OFF, ON), 3)
    await rounds.alternate(0)
    assert [(m.system, m.answer, m.group, len(m.ids), m.steps) for m in rounds.measured[:2]] == [
        (OFF, ("a", 0), "qa", 3, 2),
        (ON, ("a", 0), "qa", 3, 2),
    ]
    assert len(rounds.measured) == 8


async def test_a_crowd_keeps_so_many_busy_and_counts_what_is_identical() -> None:
    systems = fakes(OFF, ON)
    rounds = Rounds(QUESTIONS, systems, 3)
    await rounds.alternate(0)
    assert systems[ON].most_running == 1
    await rounds.crowd(ON, 2, 0)
    assert systems[ON].most_running == 2
    (crowd,) = rounds.crowds
    assert (crowd.concurrency, crowd.system, crowd.tokens, crowd.identical, crowd.answers) == (2, ON, 12, 4, 4)


async def test_prompts_of_different_lengths_end_the_run() -> None:
    systems = fakes(OFF, ON)
    systems[ON].extra_tokens = 1
    with pytest.raises(BenchError, match="question a, turn 1: the prompts differ"):
        await Rounds(QUESTIONS, systems, 3).alternate(0)


async def test_an_error_says_which_question_it_was() -> None:
    rounds = Rounds([QUESTIONS[1], Question("z", "qa", ("Impossible?",))], fakes(OFF, ON), 3)
    with pytest.raises(BenchError, match="question z, turn 1: too long"):
        await rounds.alternate(0)
    assert [m.question_id for m in rounds.measured] == ["b", "b"]  # what was measured before is kept
