"""A growing text in another vocabulary's tokens, of which only the end is encoded anew when it grows.

The text is cut where a piece begins (a word with the space before it, say). A piece's tokens depend on nothing outside
it, and where pieces end depends on little text behind them: so everything before a piece that lies a little back is
settled. The tokens are those of the whole text encoded at once, with two exceptions, both harmless, since a drafter's
view of the context has to be good and not perfect: tokenizers whose patterns look back, or ahead by more than `reach`
bytes; and text that goes on for MAX_TAIL bytes without a new word, which is cut all the same.
"""

from __future__ import annotations

from dataclasses import dataclass

from paceline.wire.vocabulary.base import Vocabulary

MAX_TAIL = 1 << 12  # bytes that are encoded anew, at most


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece as bytes. `stray`: a byte that belongs to no character; it has one token or none."""

    data: bytes
    tokens: tuple[int, ...]
    stray: bool = False

    @property
    def is_blank(self) -> bool:
        """Nothing but spaces and line ends, which patterns may join with what comes behind them."""
        return not self.stray and self.data.decode().isspace()


def stretches(vocabulary: Vocabulary, data: bytes) -> tuple[list[Stretch], bytes]:
    """Bytes cut into pieces; and what is left at the end, if that is the beginning of a character."""
    found: list[Stretch] = []
    at = 0
    while at < len(data):
        text, strays, cut_off = _characters(data, at)
        found += [Stretch(piece.text.encode(), piece.tokens) for piece in vocabulary.pieces(text)] if text else []
        at += len(text.encode())
        if cut_off:
            return found, data[at:]
        for byte in data[at : at + strays]:
            token = vocabulary.token_of(bytes([byte]))
            found.append(Stretch(bytes([byte]), () if token is None else (token,), stray=True))
        at += strays
    return found, b""


def _characters(data: bytes, start: int) -> tuple[str, int, bool]:
    """The whole characters from a place on, the number of bytes behind them that are no character, and whether what
    comes behind them is one that is cut off."""
    try:
        return data[start:].decode(), 0, False
    except UnicodeDecodeError as error:
        text = data[start : start + error.start].decode()
        return text, error.end - error.start, error.reason == "unexpected end of data"


class Retokenizer:
    """One text, in one vocabulary.

    Attributes:
        tokens: of the text without `held`; appending may change their end.
        held: bytes at the end that are the beginning of a character.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens: list[int] = []
        self.held = b""
        self._vocabulary = vocabulary
        self._num_settled = 0
        self._unsettled = b""  # text of the tokens behind the settled ones

    @property
    def tail(self) -> bytes:
        """The end of the text, from a place at which a piece begins; with `held`."""
        return self._unsettled + self.held

    def append(self, data: bytes) -> None:
        """The text goes on."""
        found, self.held = stretches(self._vocabulary, self.tail + data)
        del self.tokens[self._num_settled :]
        first = self._first_unsettled(found)
        for index, stretch in enumerate(found):
            self.tokens.extend(stretch.tokens)
            if index < first:
                self._num_settled += len(stretch.tokens)
        self._unsettled = b"".join(stretch.data for stretch in found[first:])

    def append_special(self, token: int | None) -> None:
        """A special token stands between the text before and behind it; None: one that this vocabulary hasn't got."""
        for byte in self.held:
            stray = self._vocabulary.token_of(bytes([byte]))
            self.tokens.extend(() if stray is None else (stray,))
        self.held = self._unsettled = b""
        self.tokens.extend(() if token is None else (token,))
        self._num_settled = len(self.tokens)

    def _first_unsettled(self, found: list[Stretch]) -> int:
        """Index of the last piece that will surely begin where it does: a word, with enough text behind its end."""
        behind = 0
        for index in range(len(found) - 1, -1, -1):
            if behind >= self._vocabulary.reach and not found[index].is_blank:
                return index
            behind += len(found[index].data)
        return len(found) if behind > MAX_TAIL else 0
