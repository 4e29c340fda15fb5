"""What the router knows of a request when it chooses, as a few numbers. No text is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

MAX_HEAD = 4096  # characters that are looked at
FEATURES = ("one", "length", "sampled", "load", "code", "digits", "foreign", "repetitive", "seen", "accepted")
NUM_FEATURES = len(FEATURES)
NEUTRAL = (1.0,) + (0.0,) * (NUM_FEATURES - 1)  # of what nothing is known

_CODE = str.maketrans("", "", "{}[]()<>=;_/\\|&*+#`~^$@")
_DIGITS = str.maketrans("", "", "0123456789")
_LONGEST = 2.0**20  # characters at which the feature of length is 1
_FEW_WORDS = 12
_MOST_ACCEPTED = 4.0  # tokens a step at which the feature of acceptance is 1


@dataclass(frozen=True, slots=True)
class Prompt:
    """Features of one prompt, each in [0, 1].

    Attributes:
        length: 0 for an empty one, 1 from a million characters; logarithmic from 64.
        code: brackets and the like; 1 if one in eight characters is.
        digits: 1 if one in eight characters is.
        foreign: outside of ASCII; 1 if one in four characters is.
        repetitive: share of its pairs of words that came before.
    """

    length: float = 0.0
    code: float = 0.0
    digits: float = 0.0
    foreign: float = 0.0
    repetitive: float = 0.0

    def context(self, temperature: float, load: float, accepted: float | None = None) -> tuple[float, ...]:
        """What policies see, in the order of `FEATURES`.

        Args:
            temperature: of the request; what matters is whether tokens are drawn at all.
            load: of the verifier, running and queued sessions as a share of what it runs at once; cut at 1.
            accepted: tokens a step that drafters had right in an earlier segment of this request; None before there is
                one. It says more of what drafters are good for here than anything in the prompt.
        """
        sampled = 1.0 if temperature > 0.0 else 0.0
        busy = min(max(load, 0.0), 1.0)
        moment = (1.0, self.length, sampled, busy)
        return (*moment, self.code, self.digits, self.foreign, self.repetitive, *seen_features(accepted))


def seen_features(accepted: float | None) -> tuple[float, float]:
    """The features of what was seen of a request so far, the last two."""
    return (0.0, 0.0) if accepted is None else (1.0, min(1.0, max(0.0, accepted) / _MOST_ACCEPTED))


def prompt_of(head: str, num_characters: int) -> Prompt:
    """Features of a prompt that begins with `head`, of which no more than `MAX_HEAD` characters are looked at.

    Args:
        head: "" if the text isn't known.
        num_characters: of the whole prompt.
    """
    length = min(1.0, math.log1p(max(0, num_characters) / 64) / math.log1p(_LONGEST / 64))
    head = head[:MAX_HEAD]
    if not head:
        return Prompt(length)
    size = len(head)
    foreign = size - len(head.encode("ascii", "ignore"))
    return Prompt(
        length=length,
        code=min(1.0, 8.0 * (size - len(head.translate(_CODE))) / size),
        digits=min(1.0, 8.0 * (size - len(head.translate(_DIGITS))) / size),
        foreign=min(1.0, 4.0 * foreign / size),
        repetitive=_repetitive(head.split()),
    )


def _repetitive(words: list[str]) -> float:
    if len(words) < _FEW_WORDS:
        return 0.0
    return 1.0 - len(set(pairwise(words))) / (len(words) - 1)
