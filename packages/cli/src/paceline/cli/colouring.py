"""Which part of a streamed text came from whom.

Text comes in whole characters and may lag behind its tokens; tokens are bytes that need not be whole characters. So the
bytes wait in a queue with their source, and text takes from it as many as it has. A character is its first byte's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

TARGET = ""  # the source of a token that no drafter proposed

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "bright_red", "bright_cyan", "bright_magenta")


class Colouring:
    """Splits a text as it comes into stretches of one source. The text itself is never changed.

    Where text and tokens don't agree (a tokenizer that drops a space, an incomplete character that was replaced), only
    the border between two sources may be off by so much.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, str]] = deque()  # (bytes, source), in order

    def feed(self, pieces: Iterable[bytes], sources: Iterable[str], text: str) -> list[tuple[str, str]]:
        """Takes one event; returns (text, source) stretches, which together are `text`."""
        self._waiting.extend((len(piece), source) for piece, source in zip(pieces, sources, strict=True) if piece)
        stretches: list[tuple[str, str]] = []
        for character in text:
            source = self._take(len(character.encode()))
            if stretches and stretches[-1][1] == source:
                stretches[-1] = (stretches[-1][0] + character, source)
            else:
                stretches.append((character, source))
        return stretches

    def _take(self, count: int) -> str:
        source = self._waiting[0][1] if self._waiting else TARGET
        while count and self._waiting:
            size, owner = self._waiting.popleft()
            if size > count:
                self._waiting.appendleft((size - count, owner))
            count -= min(size, count)
        return source


class Palette:
    """A colour for each source, in the order in which they turn up; the target's text has none."""

    def __init__(self) -> None:
        self.colours: dict[str, str] = {}

    def style(self, source: str) -> str:
        if source == TARGET:
            return ""
        return self.colours.setdefault(source, COLOURS[len(self.colours) % len(COLOURS)])


def shares(sources: Sequence[str]) -> dict[str, int]:
    """How many tokens came from each source, the most first."""
    counts: dict[str, int] = {}
    for source in sources:
        counts[source] = counts.get(source, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
