"""Prompts put together from texts that are there and requests about them: `Summarize this: …`, `Translate: …`.

When to use it: passages are plenty, requests about them few. It takes no target and no time, where `inventing` has a
target write every word; and what is asked about is real text, which small targets can't make up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paceline.trainer.data.prompts import Message, Prompt

SOURCE = "framed"
PLACE = "{text}"
_PARAGRAPHS = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"[.!?][\"')\]]?\s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How passages become prompts.

    Attributes:
        frames: requests, each with `{text}` in one place or more; every place takes another passage.
        min_characters, max_characters: of a passage; a longer one is cut after a sentence.
        seed: another one puts other things together.
    """

    frames: Sequence[str]
    min_characters: int = 40
    max_characters: int = 1500
    seed: int = 0


def framed(texts: Sequence[str], framing: Framing) -> Iterator[Prompt]:
    """Prompts without end, frames in turn; every passage is used once before any is used again.

    Args:
        texts: whose longest paragraphs are the passages.

    Raises:
        ValueError: no text has a paragraph that is long enough.
    """
    passages = [passage for text in texts if (passage := passage_of(text, framing))]
    if not passages:
        raise ValueError(f"no text has a paragraph of {framing.min_characters} characters or more")
    drawn = _drawn(len(passages), framing.seed)
    number = 0
    while True:
        parts = framing.frames[number % len(framing.frames)].split(PLACE)
        content = parts[0] + "".join(passages[next(drawn)] + part for part in parts[1:])
        yield Prompt(f"{SOURCE}-{framing.seed}-{number:06}", SOURCE, (Message("user", content),))
        number += 1


def passage_of(text: str, framing: Framing) -> str:
    """The longest paragraph, without line breaks, cut to a length; "" if it is too short."""
    longest = " ".join(max(_PARAGRAPHS.split(text), key=len).split())
    if len(longest) > framing.max_characters:
        head = longest[: framing.max_characters]
        ends = [match.end() for match in _SENTENCE_END.finditer(head)]
        longest = head[: ends[-1] if ends else len(head)].strip()
    return longest if len(longest) >= framing.min_characters else ""


def _drawn(count: int, seed: int) -> Iterator[int]:
    chance = np.random.default_rng(seed)
    while True:
        yield from chance.permutation(count).tolist()
