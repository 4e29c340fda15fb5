"""What a recipe is: a way to make a drafter for a target from nothing but the target's answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import nn

from paceline.trainer.data.prompts import is_held_out
from paceline.trainer.data.reading import Wanted
from paceline.trainer.data.rows import Answer, Origin, Reading
from paceline.trainer.data.shards import Shards
from paceline.trainer.data.target import Target
from paceline.trainer.models.comparison import Probe
from paceline.trainer.models.revision import Vocabulary
from paceline.wire.model_card import LanguageModelCard


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """What can be chosen about a drafter; 0 or "" leaves it to the recipe.

    Attributes:
        objective: a name in OBJECTIVES.
        vocab_size: tokens it knows, at most.
        width, num_layers: of its hidden states; of its layers.
        max_length: positions it may be given.
        epochs: passes over the target's answers that it learns from.
        pretrain_epochs: passes over prompts and answers as plain text, before.
        learning_rate: the greatest of each.
        batch_tokens: of a step.
        held_out: share of the prompts that it is judged on and doesn't learn from.
        max_judged: answers that it is judged on, at most.
        seed: of weights and of the order of texts.
    """

    objective: str = ""
    vocab_size: int = 0
    width: int = 0
    num_layers: int = 0
    max_length: int = 2048
    epochs: float = 3.0
    pretrain_epochs: float = 1.0
    learning_rate: float = 0.0
    batch_tokens: int = 4096
    held_out: float = 0.05
    max_judged: int = 200
    seed: int = 0


class Readings(Protocol):
    """Rows to go through as often as one likes; `Shards` of readings are such."""

    @property
    def origin(self) -> Origin:
        """What they have in common."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Reading]: ...

    def sha256(self) -> str:
        """Hex, of what they were made of."""


class Unread:
    """Answers as readings of which nothing is known but the tokens: top_k is 0, there are no features."""

    def __init__(self, answers: Shards[Answer]) -> None:
        self._answers = answers

    @property
    def origin(self) -> Origin:
        return {**self._answers.origin, "top_k": 0, "layers": []}

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[Reading]:
        for answer in self._answers:
            shape = (len(answer.answer_ids), 0)
            none = np.zeros((0, 0, 0), np.uint16)
            yield Reading(answer, np.zeros(shape, np.int32), np.zeros(shape, np.float16), len(answer), none)

    def sha256(self) -> str:
        return self._answers.sha256()


class Together:
    """Readings of several folders, one after the other."""

    def __init__(self, parts: Sequence[Readings]) -> None:
        self._parts = parts

    @property
    def origin(self) -> Origin:
        """The first one's; what it has in common with the others is for the caller to know."""
        return self._parts[0].origin

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __iter__(self) -> Iterator[Reading]:
        for part in self._parts:
            yield from part

    def sha256(self) -> str:
        """That of a single one, if there is only one."""
        parts = [part.sha256() for part in self._parts]
        return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


class Chosen:
    """Those readings whose prompts come from some sources; each a name, or a pattern with *. No sources are all."""

    def __init__(self, readings: Readings, sources: tuple[str, ...]) -> None:
        self._readings, self._sources = readings, sources
        self._sha256 = ""

    @property
    def origin(self) -> Origin:
        return self._readings.origin

    def __len__(self) -> int:
        """Of all, chosen or not: to count them is to read them."""
        return len(self._readings)

    def __iter__(self) -> Iterator[Reading]:
        for reading in self._readings:
            source = reading.answer.source
            if not self._sources or any(fnmatchcase(source, pattern) for pattern in self._sources):
                yield reading

    def sha256(self) -> str:
        if not self._sha256:  # which may be of gigabytes
            whole = self._readings.sha256()
            told = repr((whole, self._sources)).encode()
            self._sha256 = hashlib.sha256(told).hexdigest() if self._sources else whole
        return self._sha256


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Job:
    """What a recipe works with.

    Attributes:
        target: for its tokenizer, its head, its sizes.
        readings: of its answers, as `Recipe.wanted` asked for them; without anything that was thought if it asked for
            nothing.
        work: a folder to keep what was done, so that it need not be done again; the recipe's alone.
        making: what was chosen.
        parent: a revision's folder to train on from; only for recipes with `takes_parents`.
    """

    target: Target
    readings: Readings
    work: Path
    making: Making
    parent: Path | None = None

    def split(self) -> tuple[Iterator[Reading], Iterator[Reading]]:
        """To learn from, and held out; in the order of writing, as a stream."""
        return self._held_out(False), self._held_out(True)

    def data_hash(self) -> str:
        """Tells what is learnt from, from anything else: 16 hex digits."""
        told = repr((self.readings.sha256(), self.making.held_out))
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _held_out(self, wanted: bool) -> Iterator[Reading]:
        return (row for row in self.readings if is_held_out(row.answer.id, self.making.held_out) == wanted)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Made:
    """A drafter that was made, as `models.revision.write_revision` wants it.

    Attributes:
        module: on the CPU, float32.
        card: what its graph takes and gives.
        vocabulary: what its tokens mean.
        probe: real text, on which its graph is held against the module.
        metrics: on held-out answers, by name; "acceptance" and "tokens_per_step" among them, see `judging`.
        summary: its sizes, in a few words for people.
    """

    module: nn.Module
    card: LanguageModelCard
    vocabulary: Vocabulary
    probe: Probe | None
    metrics: Mapping[str, float]
    summary: str


class Recipe(Protocol):
    """Makes a drafter. Each step that takes long goes on where it was stopped, in `Job.work`, and shows a bar."""

    summary: str
    """What it makes and when to use it, in a line."""
    takes_parents: bool
    """Whether it trains on from a revision that is there."""

    def wanted(self, target: Target, making: Making) -> Wanted | None:
        """What it has to know of the target's answers; None: their tokens will do, and no pass is needed."""

    def make(self, job: Job) -> Made:
        """Raises PacelineError or StartupError: the data doesn't suit, or the loss diverges."""
