"""One request's part in a trial, while it is at one verifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paceline.router.arms import MAX_DRAFTERS, Arm
from paceline.router.trial_book import TrialBook
from paceline.v1 import generation_pb2


@dataclass(frozen=True, slots=True)
class Pair:
    """A drafter and the one that would replace it, by id; `name` is the first one's."""

    drafter_id: str
    name: str
    trial_id: str


class TrialSeat:
    """Drawn once, when the request first would have a drafter with somebody on trial in its place.

    Args:
        book: of all trials.
    """

    def __init__(self, book: TrialBook) -> None:
        self._book = book
        self._pair: Pair | None = None
        self._on_trial = False
        self._segments = 0
        self._reward = 0.0

    def named(self, arm: Arm, connected: Mapping[str, str], trials: Mapping[str, str]) -> tuple[str, ...]:
        """Whom a verifier is to engage for an arm: its names, or ids if another takes a drafter's place.

        Args:
            arm: chosen.
            connected: names by id of the drafters at the verifier.
            trials: ids of drafters on trial there, by the ids of those they would replace.
        """
        if self._pair is None:
            self._take_a_seat(arm, connected, trials)
        pair = self._pair
        if pair is None or not self._on_trial or pair.name not in arm.drafters or pair.trial_id not in trials.values():
            return arm.drafters
        others = [key for key, name in connected.items() if name in arm.drafters and key != pair.drafter_id]
        return (*others[: MAX_DRAFTERS - 1], pair.trial_id)

    def _take_a_seat(self, arm: Arm, connected: Mapping[str, str], trials: Mapping[str, str]) -> None:
        for drafter_id, trial_id in sorted(trials.items()):
            if connected.get(drafter_id, "") in arm.drafters:
                drawn = self._book.drawn(trial_id)
                if drawn is not None:
                    self._pair = Pair(drafter_id, connected[drafter_id], trial_id)
                    self._on_trial = drawn
                    return

    def heard(self, outcome: generation_pb2.Outcome) -> None:
        """A verifier's word on a segment, whichever arm it was under: what had to be refused fails the trial."""
        pair = self._pair
        if pair is None or not self._on_trial:
            return
        if any(credit.refused for credit in outcome.drafters if credit.drafter_id == pair.trial_id):
            self._book.failed(pair.trial_id)

    def replaces(self, arm: Arm) -> bool:
        """Segments under this arm are the trial's, and say nothing of the arm itself."""
        return self._on_trial and self._pair is not None and self._pair.name in arm.drafters

    def segment(self, arm: Arm, reward: float, connected: Mapping[str, str], trials: Mapping[str, str]) -> None:
        """A segment under an arm was worth that. It counts if both were there, whichever of them drafted."""
        pair = self._pair
        if pair is None or pair.name not in arm.drafters:
            return
        if trials.get(pair.drafter_id) == pair.trial_id and pair.drafter_id in connected:
            self._segments += 1
            self._reward += reward

    def close(self) -> None:
        """The request left the verifier. Again is harmless."""
        if self._pair is not None and self._segments:
            self._book.learn(self._pair.trial_id, self._on_trial, self._segments, self._reward)
        self._segments, self._reward = 0, 0.0
