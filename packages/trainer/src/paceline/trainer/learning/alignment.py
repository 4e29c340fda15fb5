"""A target's text in a student's tokens, and at which of them the target's word is known.

A drafter with a vocabulary of its own reads a text as its own tokenizer cuts it (the drafter's bridges do so at
serving), and that is how it is taught. Where a target's token begins at the same byte as one of the student's, what the
target thought there is about what the student says there.

    target    |The| cap|ital| of|
    student   |The| c|ap|ital| of|
    begins      x   x     x    x        rows at which a target's token begins
    spells      x             x    x    rows of tokens that are a target's token by themselves
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
        spells: whether the row is that target's token, whole [n].
    """

    ids: Ids
    first: int
    source: Ids
    spells: Flags

    def __len__(self) -> int:
        return len(self.source)


def map_tokens(target: Vocabulary, student: Vocabulary) -> Ids:
    """The student's token with the same bytes, or the special one with the same name, for each of the target's; else
    NONE [target.size]."""
    found = np.full(target.size, NONE, np.int64)
    for token in range(target.size):
        data = target.bytes_of(token)
        name = target.special(token) if data is None else None
        same = student.token_of(data) if data is not None else student.special_id(name) if name is not None else None
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
    ends = starts[len(context) + 1 :]
    spells = [at != NONE and ends[at] == end for at, (_, end) in zip(source, places[first:], strict=True)]
    return Aligned(np.array(ids, np.int64), first, np.array(source, np.int64), np.array(spells, np.bool_))


def align_cut(cut: Ids, unknown: int, context: Sequence[int], tokens: Sequence[int]) -> Aligned:
    """The same for a student whose vocabulary is cut from the target's.

    Args:
        cut: the student's token for each of the target's, or NONE.
        unknown: id that stands for all that the student hasn't got.
    """
    ids = cut[np.array([*context, *tokens], np.int64)]
    ids = np.where(ids == NONE, unknown, ids)
    count = len(tokens)
    return Aligned(ids, len(context), np.arange(count), np.ones(count, np.bool_))


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
    """Text without special tokens. Bytes that are no whole character, such as those at a cut end, are left out."""
    at = 0
    while at < len(data):
        try:
            text, strays = data[at:].decode(), 0
        except UnicodeDecodeError as error:
            text, strays = data[at : at + error.start].decode(), error.end - error.start
        yield from _cut_characters(student, text, offset + at)
        at += len(text.encode()) + strays


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
