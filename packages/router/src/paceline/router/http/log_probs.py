"""Log-probabilities in the two shapes of OpenAI's API."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterable

from paceline.router.http.responses import ChatLogProbs, CompletionLogProbs, TokenLogProb, TopLogProb
from paceline.v1 import generation_pb2

LEAST = -9999.0  # what OpenAI's API has for the impossible; JSON has no infinity


def chat_log_probs(tokens: Iterable[generation_pb2.TokenLogProbs]) -> ChatLogProbs:
    """Of these tokens, each with the likeliest at its place."""
    return ChatLogProbs(
        content=[
            TokenLogProb(
                token=_text(one.token.piece),
                logprob=_finite(one.token.log_prob),
                bytes=list(one.token.piece),
                top_logprobs=[
                    TopLogProb(token=_text(top.piece), logprob=_finite(top.log_prob), bytes=list(top.piece))
                    for top in one.top
                ],
            )
            for one in tokens
        ],
        refusal=None,
    )


class Offsets:
    """Where in a text its tokens begin, in characters.

    A token that ends within a character begins the character that a later one completes: both have its offset.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._length = 0

    def push(self, piece: bytes) -> int:
        """The offset of the next token."""
        offset = self._length
        self._length += len(self._decoder.decode(piece))
        return offset


def completion_log_probs(tokens: Iterable[generation_pb2.TokenLogProbs], offsets: Offsets) -> CompletionLogProbs:
    """The same for /v1/completions; the token itself is always among the likeliest told."""
    shown = CompletionLogProbs(text_offset=[], token_logprobs=[], tokens=[], top_logprobs=[])
    for one in tokens:
        shown.text_offset.append(offsets.push(one.token.piece))
        shown.tokens.append(_text(one.token.piece))
        shown.token_logprobs.append(_finite(one.token.log_prob))
        shown.top_logprobs.append({_key(top.piece): _finite(top.log_prob) for top in (*one.top, one.token)})
    return shown


def _text(piece: bytes) -> str:
    return piece.decode(errors="replace")


def _key(piece: bytes) -> str:
    """Distinct for distinct bytes, as OpenAI spells those that are no text."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)


def _finite(log_prob: float) -> float:
    return log_prob if math.isfinite(log_prob) else LEAST
