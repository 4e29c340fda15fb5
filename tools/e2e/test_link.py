"""A drafter far away: over a link of 20 ms each way, longer than four steps of the target, speculation still pays.

What such a drafter can be good for is text that is there already and comes again: to be copied, corrected, put into
another form; code with one line changed; and a request that the same tenant has made before. There its trees are
right for as many tokens as the way takes, and hang on though they come late. Where every third token is new, it is
told so too late, and the answer comes as fast as without it.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import pytest

from paceline.cli.measure import Answer, ask, request_for
from paceline.cli.stack import Service, Stack
from paceline.v1 import generation_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

RELAY = Path(__file__).parent / "delaying_relay.py"
ONE_WAY_MS = 20.0
CUT_S = 3.0
ROUNDS = 3
MAX_TOKENS = 200
LONG_TOKENS = 500  # an answer that a cut falls into and is over before it
SPEEDUP = 1.15
AHEAD_STEPS = 0.95  # of the steps that answers take without drafting ahead
FAR_STEPS = 1.5  # a link of fewer steps there and back leaves nothing to reach over
DEADLINE_S = 60.0

STORY = (
    "The {village} of Aldermoor had no bridge. Every spring the river rose, and every spring the ferryman raised his "
    "price. In the year of the great flood the villagers cut forty oaks and built a bridge. The {ferryman} sold his "
    "boat and opened an inn at the foot of the bridge, and in time the inn earned more than the boat ever had. When "
    "he was old he told his guests that the flood had been the best thing that ever happened to him, and the guests, "
    "who had crossed the river dry, agreed with him."
)
CODE = """class Inventory:
    def __init__(self):
        self.items = {}

    def add(self, name, count):
        if name in self.items:
            self.items[name] += count
        else:
            self.items[name] = count

    def remove(self, name, count):
        if name not in self.items:
            raise KeyError(name)
        self.items[name] -= count
        if self.items[name] == 0:
            del self.items[name]

    def total(self):
        return len(self.items.values())
"""
GUESTS = (
    "Zoe Miller, 4 Mill Lane; Adam Fisher, 12 High Street; Mia Baker, 7 Station Road; Ben Carter, 31 Church Street; "
    "Eva Smith, 18 Park Avenue; Tom Cooper, 5 River Walk; Lia Mason, 22 Garden Close; Max Turner, 9 Abbey Road"
)
COPY = "Copy this text exactly:\n\n" + STORY.format(village="village", ferryman="ferryman")
FRESH = {  # nothing is remembered of them: each time they are new
    "proofread": "Proofread this text and write it again without spelling mistakes:\n\n"
    + STORY.format(village="vilage", ferryman="feryman"),
    "list": "Write this list again, one person a line:\n\n" + "\n".join(GUESTS.split("; ")),
    "code": f"Copy this code exactly:\n\n```python\n{CODE}```",
}
AGAIN = {  # the tenant has asked before
    "bug, again": "This Python class has a bug: the method total returns a wrong value. Write the whole class again "
    f"with the bug repaired.\n\n```python\n{CODE}```",
}
DRAFTERS: dict[str, tuple[str, ...]] = {"far": (), "near-sighted": ("--no-ahead",)}


@dataclass(frozen=True)
class Measured:
    """Answers of one kind of speculation, by prompt, a list of rounds each."""

    answers: dict[str, list[Answer]]

    def seconds(self, prompt: str) -> float:
        return median(answer.seconds for answer in self.answers[prompt])

    def speed(self, *prompts: str) -> float:
        """Tokens per second over these prompts, or all."""
        names = prompts or tuple(self.answers)
        return sum(len(self.answers[name][0].ids) for name in names) / sum(self.seconds(name) for name in names)

    def steps(self, *prompts: str) -> int:
        """Steps of the verifier over these prompts, or all."""
        return sum(int(median(answer.steps for answer in self.answers[name])) for name in prompts or self.answers)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The drafters know nothing but the relay. No router: one that knew them would tell them the way past it."""
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        stack.start("verifier", "verifier")
        stack.wait(timeout_s=240.0)
        way = ("--target", stack.services["verifier"].address, "--delay-ms", str(ONE_WAY_MS), "--cut-s", str(CUT_S))
        stack.spawn("relay", str(RELAY), *way)
        stack.wait("relay")
        relay = stack.services["relay"].address
        for name, options in DRAFTERS.items():
            stack.start(name, "drafter", "--name", name, "--strategies", "suffix", "--verifiers", relay, *options)
            stack.wait_for_output(stack.services[name], "drafting")
        yield stack


def request_of(
    prompt: str, drafter: str = "", max_tokens: int = MAX_TOKENS, tenant: str = "", ignore_eos: bool = False
) -> generation_pb2.GenerateRequest:
    """With that drafter, or none. Without a tenant nothing is remembered of it, by nobody."""
    drafters = (drafter,) if drafter else ()
    request = request_for([("user", prompt)], max_tokens=max_tokens, speculation=bool(drafter), drafters=drafters)
    request.tenant = tenant
    request.no_store = not tenant
    request.limits.ignore_eos = ignore_eos
    return request


def answers_of(stack: Stack, *requests: generation_pb2.GenerateRequest) -> list[Answer]:
    """One after the other."""

    async def asked() -> list[Answer]:
        async with connect(stack.services["verifier"].address, ClientSettings()) as channel:
            stub = verifier_pb2_grpc.VerifierStub(channel)
            return [await ask(stub, request) for request in requests]

    return asyncio.run(asked())


@pytest.fixture(scope="module")
def measured(stack: Stack) -> dict[str, Measured]:
    """By drafter, "" for none; they take turns, so that whatever else the machine does befalls all of them."""
    kinds = ("", *DRAFTERS)
    prompts = FRESH | AGAIN
    answers: dict[str, dict[str, list[Answer]]] = {kind: {name: [] for name in prompts} for kind in kinds}
    tenant = dict.fromkeys(FRESH, "") | dict.fromkeys(AGAIN, "tenant")
    answers_of(stack, *(request_of(AGAIN[name], kind, tenant="tenant") for name in AGAIN for kind in kinds))
    for _ in range(ROUNDS):
        for name, prompt in prompts.items():
            for kind in kinds:
                answers[kind][name] += answers_of(stack, request_of(prompt, kind, tenant=tenant[name]))
    return {kind: Measured(answers[kind]) for kind in kinds}


def show(measured: dict[str, Measured], capsys: pytest.CaptureFixture[str]) -> None:
    plain = measured[""]
    with capsys.disabled():  # the figures are for everybody to see
        print(f"\n{2 * ONE_WAY_MS:.0f} ms there and back; tokens per second, median of {ROUNDS}")
        print(f"{'':12}{'tokens':>8}{'off':>8}" + "".join(f"{kind:>21}" for kind in DRAFTERS))
        for label, names in [(name, (name,)) for name in plain.answers] + [("all", ())]:
            tokens = sum(len(plain.answers[name][0].ids) for name in names or plain.answers)
            line = f"{label:12}{tokens:>8}{plain.speed(*names):>8.1f}"
            for kind in DRAFTERS:
                speed = measured[kind].speed(*names)
                line += f"{speed:>13.1f} ({speed / plain.speed(*names):.2f}x) {measured[kind].steps(*names):>4}"
            print(line)


def test_speculation_pays_though_drafts_come_four_steps_late(
    measured: dict[str, Measured], capsys: pytest.CaptureFixture[str]
) -> None:
    show(measured, capsys)
    plain, drafted = measured[""], measured["far"]
    for name, answers in plain.answers.items():
        assert all(answer.tokens_per_step == 1.0 for answer in answers)
        for answer in answers + drafted.answers[name]:
            assert (answer.ids, answer.text) == (answers[0].ids, answers[0].text)
    assert drafted.speed() >= SPEEDUP * plain.speed()


def test_drafting_ahead_shows(measured: dict[str, Measured]) -> None:
    """In steps, which whatever else the machine does moves less than seconds; those are in the table."""
    near, far = measured["near-sighted"], measured["far"]
    step_ms = 1000.0 / measured[""].speed()
    if FAR_STEPS * step_ms > 2 * ONE_WAY_MS:
        pytest.skip(f"a step takes {step_ms:.0f} ms here, so a link of {2 * ONE_WAY_MS:.0f} ms is not far")
    for name, answers in near.answers.items():
        assert all(answer.ids == far.answers[name][0].ids for answer in answers)
    assert far.steps() <= AHEAD_STEPS * near.steps()


def welcomes(drafter: Service) -> int:
    return drafter.log.read_text().count("drafting")


@pytest.fixture(scope="module")
def long_answer(stack: Stack) -> Answer:
    (plain,) = answers_of(stack, request_of(COPY, max_tokens=LONG_TOKENS, ignore_eos=True))
    return plain


@pytest.mark.parametrize("mode", [signal.SIGUSR1, signal.SIGUSR2], ids=["stall", "reset"])
def test_a_link_that_is_cut_costs_speed_only(stack: Stack, long_answer: Answer, mode: signal.Signals) -> None:
    relay, far = stack.services["relay"], stack.services["far"]
    before, healed = welcomes(far), relay.log.read_text().count("healed")

    async def cut_in_the_middle() -> list[int]:
        ids: list[int] = []
        request = request_of(COPY, "far", max_tokens=LONG_TOKENS, ignore_eos=True)
        async with connect(stack.services["verifier"].address, ClientSettings()) as channel:
            cut = False
            async for event in verifier_pb2_grpc.VerifierStub(channel).Generate(request, timeout=DEADLINE_S):
                ids.extend(event.tokens.ids)
                if len(ids) > 20 and not cut:
                    relay.process.send_signal(mode)
                    cut = True
        return ids

    assert asyncio.run(cut_in_the_middle()) == long_answer.ids
    deadline = time.monotonic() + DEADLINE_S
    while relay.log.read_text().count("healed") == healed or welcomes(far) < before + (mode is signal.SIGUSR2):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    (again,) = answers_of(stack, request_of(COPY, "far"))
    assert again.ids == long_answer.ids[: len(again.ids)]
    assert again.drafters["far"][1] > 20, "drafting did not go on"
