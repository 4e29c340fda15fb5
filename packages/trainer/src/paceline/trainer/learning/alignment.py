"""A target's text in a student's tokens, and at which of them the target's word is known.

A drafter with a vocabulary of its own reads a text as its own tokenizer cuts it (the drafter's bridges do so at
serving), and that is how it is taught. Where a target's token begins at the same byte as one of the student's, what the
target thought there is about what the student says there.

    target    |The| cap|ital| of|
    student   |The| c|ap|ital| of|
    begins       x   x     x    x       rows at which a target's token begins
    ends         x        x    x    x   rows at which one ends; where the same one begins and ends, the student's is it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from paceline.wire.vocabulary.base import Vocabulary

Ids = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
NONE = -1


@dataclass(frozen=True, slots=True)
class Aligned:
    """One text. Rows are the student's tokens from `first` on [n].

    Attributes:
        ids: the student's tokens of all of it [first + n].
        first: index of the first that lies whole behind the context.
        source: index of the target's token that begins where each row begins, NONE if none does [n].
        stops: index of the one that ends where each row ends, NONE if none does [n].
    """

    ids: Ids
    first: int
    source: Ids
    stops: Ids

    def __len__(self) -> int:
        return len(self.source)

    @property
    def spells(self) -> Flags:
        """Whether each row is a target's token, whole [n]."""
        return (self.source != NONE) & (self.source == self.stops)


def map_tokens(target: Vocabulary, student: Vocabulary, size: int) -> Ids:
    """The student's token with the same bytes, or the special one with the same name, for each of the target's; else
    NONE [size]. Of several of the target's with the same bytes it is that of the one that the target writes.

    Args:
        size: ids of the target are below it; may be more than its tokenizer has.
    """
    found = np.full(size, NONE, np.int64)
    for token in range(min(size, target.size)):
        data = target.bytes_of(token)
        name = target.special(token) if data is None else None
        if data is not None and target.token_of(data) == token:
            same = student.token_of(data)
        else:
            same = student.special_id(name) if name is not None else None
        found[token] = NONE if same is None else same
    return found


def align(target: Vocabulary, student: Vocabulary, context: Sequence[int], tokens: Sequence[int]) -> Aligned:
    """Cuts a text anew. A special token that the student hasn't got is left out, as at serving."""
    starts, names, data = _laid_out(target, [*context, *tokens])
    behind = starts[len(context)]
    ids: list[int] = []
    places: list[tuple[int, int]] = []  # where each of them begins and ends
    for token, start, end in _cut(student, data, names):
        ids.append(token)
        places.append((start, end))
    first = next((index for index, (start, _) in enumerate(places) if start >= behind), len(ids))
    begun = {starts[len(context) + index]: index for index in range(len(tokens))}  # of empty ones the one behind
    source = [begun.get(start, NONE) for start, _ in places[first:]]
    ended = {starts[len(context) + index + 1]: index for index in reversed(range(len(tokens)))}  # of those before it
    stops = [ended.get(end, NONE) for _, end in places[first:]]
    return Aligned(np.array(ids, np.int64), first, np.array(source, np.int64), np.array(stops, np.int64))


def align_cut(cut: Ids, unknown: int, context: Sequence[int], tokens: Sequence[int]) -> Aligned:
    """The same for a student whose vocabulary is cut from the target's.

    Args:
        cut: the student's token for each of the target's, or NONE.
        unknown: id that stands for all that the student hasn't got.
    """
    ids = cut[np.array([*context, *tokens], np.int64)]
    ids = np.where(ids == NONE, unknown, ids)
    every = np.arange(len(tokens))
    return Aligned(ids, len(context), every, every)


def _laid_out(target: Vocabulary, tokens: Sequence[int]) -> tuple[list[int], dict[int, str], bytes]:
    """Where each token begins, and where the last one ends; names of special tokens by their places; all bytes. A
    special token takes one byte, which is nobody's text."""
    starts, names, parts, at = [0], {}, [], 0
    for token in tokens:
        meaning = target.bytes_of(token)
        if meaning is None:
            name = target.special(token)
            if name is not None:
                names[at] = name
                meaning = b"\0"
        parts.append(meaning or b"")
        at += len(parts[-1])
        starts.append(at)
    return starts, names, b"".join(parts)


def _cut(student: Vocabulary, data: bytes, names: dict[int, str]) -> Iterator[tuple[int, int, int]]:
    """The student's tokens with their places."""
    at = 0
    for place, name in (*sorted(names.items()), (len(data), None)):
        yield from _cut_text(student, data[at:place], at)
        token = student.special_id(name) if name is not None else None
        if token is not None:
            yield token, place, place + 1
        at = place + 1


def _cut_text(student: Vocabulary, data: bytes, offset: int) -> Iterator[tuple[int, int, int]]:
    """Text without special tokens. A byte of what is no whole character has a token of its own, or none."""
    at = 0
    while at < len(data):
        try:
            text, strays = data[at:].decode(), 0
        except UnicodeDecodeError as error:
            text, strays = data[at : at + error.start].decode(), error.end - error.start
        yield from _cut_characters(student, text, offset + at)
        at += len(text.encode())
        for place in range(at, at + strays):
            token = student.token_of(data[place : place + 1])
            if token is not None:
                yield token, offset + place, offset + place + 1
        at += strays


def _cut_characters(student: Vocabulary, text: str, at: int) -> Iterator[tuple[int, int, int]]:
    for piece in student.pieces(text) if text else ():
        end = at + len(piece.text.encode())
        meanings = [student.bytes_of(token) for token in piece.tokens]
        if None in meanings or b"".join(filter(None, meanings)) != piece.text.encode():
            at = end  # the student has no tokens for it
            continue
        for token, meaning in zip(piece.tokens, meanings, strict=True):
            yield token, at, at + len(meaning or b"")
            at += len(meaning or b"")
