"""Which texts share a pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices in groups of like length, longest first: a group's size times its longest is at most max_tokens, or it
    is a single text.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in order, `size` at a time; the last may be fewer."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
