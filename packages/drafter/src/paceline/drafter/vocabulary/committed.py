"""Target tokens as text, in runs of bytes between special tokens."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from paceline.drafter.vocabulary.retokenizer import Retokenizer
from paceline.wire.vocabulary.base import Vocabulary


def follow(text: Retokenizer, target: Vocabulary, draft: Vocabulary, tokens: Iterable[int]) -> None:
    """Appends target tokens to a text in draft tokens.

    A special token becomes the draft's of the same name. One that the draft hasn't got is left out: written out as
    text it would be something that the draft model hardly ever saw, and might imitate, which the target never says as
    text. What lies before and behind it stays apart. Tokens that stand for nothing (unk, unused ids) are left out, too.
    """
    for run in runs(target, tokens):
        if isinstance(run, bytes):
            text.append(run)
        else:
            text.append_special(draft.special_id(run))


def runs(vocabulary: Vocabulary, tokens: Iterable[int]) -> Iterator[bytes | str]:
    """Text as bytes, and names of special tokens, in turn."""
    data: list[bytes] = []
    for token in tokens:
        meaning = vocabulary.bytes_of(token)
        name = vocabulary.special(token) if meaning is None else None
        if meaning is not None:
            data.append(meaning)
        elif name is not None:
            if data:
                yield b"".join(data)
            data = []
            yield name
    if data:
        yield b"".join(data)


def meant(vocabulary: Vocabulary, tokens: Sequence[int]) -> Sequence[int]:
    """A path up to the first token that stands for nothing."""
    for index, token in enumerate(tokens):
        if vocabulary.bytes_of(token) is None and vocabulary.special(token) is None:
            return tokens[:index]
    return tokens
