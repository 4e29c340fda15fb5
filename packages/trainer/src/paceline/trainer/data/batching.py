"""Which texts share a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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


def chunks(items: Iterable[T], size: int, weight: Callable[[T], int] = lambda _: 0, most: int = 0) -> Iterator[list[T]]:
    """Items in order, at most `size` at a time and of at most `most` together, if they weigh anything; or one alone."""
    chunk: list[T] = []
    sum_of = 0
    for item in items:
        own = weight(item)
        if chunk and (len(chunk) == size or sum_of + own > most):
            yield chunk
            chunk, sum_of = [], 0
        chunk.append(item)
        sum_of += own
    if chunk:
        yield chunk
