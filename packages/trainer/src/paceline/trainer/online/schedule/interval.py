"""Refit at intervals (Online Speculative Decoding, Liu et al. 2023): simple, and blind to whether it pays."""

from __future__ import annotations

from dataclasses import dataclass

from paceline.trainer.online.schedule.base import Situation


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so many tokens of lessons, or at once when the text has drifted.

    Attributes:
        tokens: of new lessons.
        least_tokens: after a drift at least so many are wanted, else there is nothing to learn the new text from.
    """

    tokens: int = 8192
    least_tokens: int = 2048

    def due(self, situation: Situation) -> bool:
        return situation.new_tokens >= (self.least_tokens if situation.drifted else self.tokens)
