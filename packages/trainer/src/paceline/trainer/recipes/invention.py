"""What `invent` does: a file of prompts that grows, line by line, until there are enough."""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from paceline.trainer.data.answering import Asking, Question
from paceline.trainer.data.asking import ask, check_verifier, in_order
from paceline.trainer.data.inventing import SOURCE, Inventing, invent
from paceline.trainer.data.progress import WorkBar
from paceline.trainer.data.prompts import Prompt, prompt_line, read_prompts
from paceline.trainer.data.rows import Answer
from paceline.trainer.data.target import Target, load_target
from paceline.trainer.durable import PRIVATE_FILE, write_all
from paceline.trainer.recipes.settings import InventSettings
from paceline.v1 import verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import StartupError

MAX_OPENINGS = 10_000
TRIES = 10  # for each prompt wanted; a target that is asked more often makes up the same all the time
LEAST_TRIES = 100


@dataclass(slots=True)
class Prompts:
    """A file of prompts that were made up: what it has, and the conversation that comes next."""

    path: Path
    seed: int
    asked: set[tuple[str, ...]] = field(default_factory=set)
    next_number: int = 0

    def read(self) -> None:
        """Raises StartupError or PacelineError: it holds something else."""
        for prompt in read_prompts(self.path):
            prefix, _, number = prompt.id.rpartition("-")
            if prefix != f"{SOURCE}-{self.seed}" or not number.isdecimal():
                raise StartupError(
                    f"--out {self.path} has a prompt {prompt.id!r} that isn't of this run; choose another file"
                )
            self.next_number = max(self.next_number, int(number) + 1)
            self.asked.add(_words(prompt))

    def is_new(self, prompt: Prompt) -> bool:
        """Whether nothing in the file asks the same; from then on something does."""
        if _words(prompt) in self.asked:
            return False
        self.asked.add(_words(prompt))
        return True


def run(settings: InventSettings) -> int:
    """Makes prompts until the file has so many; returns how many. Raises PacelineError, StartupError, OSError."""
    openings = _openings(settings.openings)
    target = load_target(settings.target)
    with _locked(settings.out) as file:
        prompts = Prompts(settings.out, settings.seed)
        if os.fstat(file).st_size:
            prompts.read()
        asyncio.run(_invent(settings, target, openings, prompts, file))
    return len(prompts.asked)


async def _invent(
    settings: InventSettings, target: Target, openings: tuple[str, ...], prompts: Prompts, file: int
) -> None:
    inventing = Inventing(max_turns=settings.max_turns, openings=openings, seed=settings.seed)
    noisy = Asking(max_tokens=settings.max_prompt_tokens, temperature=settings.temperature, seed=settings.seed)
    plain = Asking(max_tokens=settings.max_tokens)
    first, done = prompts.next_number, len(prompts.asked)
    last = first + max(LEAST_TRIES, TRIES * (settings.count - done))
    async with connect(settings.verifier, settings) as channel:
        verifier = verifier_pb2_grpc.VerifierStub(channel)
        await check_verifier(verifier, settings.verifier, target, target.model_name)

        async def asked(asking: Asking, question: Question) -> Answer:
            answer = await ask(verifier, question, asking, target.model_name, target.vocab_size)
            bar.advance(0, len(answer.answer_ids))
            return answer

        ask_noisily, ask_plainly = partial(asked, noisy), partial(asked, plain)

        async def make(number: int) -> Prompt | None:
            return await invent(target, number, inventing, ask_noisily, ask_plainly)

        with WorkBar("making up prompts", settings.count, done) as bar:
            made: AsyncIterator[Prompt | None] = in_order(range(first, last), make, settings.at_once)
            async for prompt in made:
                if len(prompts.asked) >= settings.count:
                    return
                if prompt is not None and prompts.is_new(prompt):
                    write_all(file, prompt_line(prompt))
                    bar.advance(1, 0)
    if len(prompts.asked) < settings.count:
        raise PacelineError(
            Reason.OUT_OF_RANGE,
            f"--count is {settings.count}; after {last - first} tries there are {len(prompts.asked)} different "
            "prompts: raise --temperature, give --openings, or take what there is",
            field="count",
            value=settings.count,
            limit=len(prompts.asked),
        )


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """The file for this process alone, to append to; a last line that was not written to its end is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartupError(
                f"--out {path}: another process writes to it; wait for it, or choose another file"
            ) from error
        content = path.read_bytes()
        os.ftruncate(file, content.rfind(b"\n") + 1)
        yield file
    finally:
        os.close(file)


def _openings(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"--openings {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    found = tuple(line for line in itertools.islice(lines, MAX_OPENINGS + 1) if line.strip())
    if not found or len(found) > MAX_OPENINGS:
        raise StartupError(f"--openings {path}: has {len(found)} lines; it must have 1 to {MAX_OPENINGS}")
    return found


def _words(prompt: Prompt) -> tuple[str, ...]:
    return tuple(message.content for message in prompt.messages if message.role == "user")
