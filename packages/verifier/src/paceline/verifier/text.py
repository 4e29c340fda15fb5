"""Tokens to text, one token at a time, so that what has been emitted is a pure function of the token sequence.

That makes the text independent of how tokens were grouped into steps, and lets another verifier take over in the middle
of an answer: it replays the committed tokens and goes on with exactly the text that is still missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

PROMPT_TAIL = 6  # tokens of the prompt that are decoded along, for tokenizers that strip a leading space
MAX_WINDOW = 64  # tokens after which what seems an incomplete character is emitted as it is
REPLACEMENT = "\ufffd"


class Decoder(Protocol):
    """The part of a transformers tokenizer that is needed here."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool = ...) -> str: ...


class TextStream:
    """Text of one answer as it grows.

    Args:
        decoder: the target's tokenizer.
        prompt: tokens before the answer.
        stop: strings that end the answer; the text stops before the first one.
    """

    def __init__(self, decoder: Decoder, prompt: Sequence[int], stop: Sequence[str] = ()) -> None:
        self._decoder = decoder
        self._stop = tuple(stop)
        self._window = list(prompt[-PROMPT_TAIL:])
        self._num_read = len(self._window)
        self._held = ""
        self.stopped_by: str | None = None

    def push(self, token: int) -> str:
        """The text that this token releases. After a stop string was found (`stopped_by`) there is none."""
        if self.stopped_by is not None:
            return ""
        self._window.append(token)
        return self._release(self._decoded(force=len(self._window) - self._num_read >= MAX_WINDOW))

    def finish(self) -> str:
        """The text that is left when no token follows: a beginning of a stop string, an incomplete character."""
        if self.stopped_by is not None:
            return ""
        text = self._release(self._decoded(force=True))
        held, self._held = ("" if self.stopped_by is not None else self._held), ""
        return text + held

    def _decoded(self, force: bool) -> str:
        """Text of the tokens not yet read, if it ends in a whole character.

        The tokens read last are decoded along each time, because what a token reads as depends on its left neighbour.
        """
        before = self._decode(self._window[: self._num_read])
        text = self._decode(self._window)
        complete = len(text) > len(before) and not text.endswith(REPLACEMENT)
        if not complete and not force:
            return ""
        self._window = self._window[self._num_read :]
        self._num_read = len(self._window)
        return text[len(before) :]

    def _decode(self, tokens: list[int]) -> str:
        return self._decoder.decode(tokens, skip_special_tokens=True)

    def _release(self, text: str) -> str:
        self._held += text
        if not self._stop:
            released, self._held = self._held, ""
            return released
        found = [(index, stop) for stop in self._stop if (index := self._held.find(stop)) >= 0]
        if found:
            index, self.stopped_by = min(found)
            released, self._held = self._held[:index], ""
            return released
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        released, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return released


def _overlap(text: str, stop: str) -> int:
    """Length of the longest proper prefix of `stop` that `text` ends with."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
