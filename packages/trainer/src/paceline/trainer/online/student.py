"""A drafter that is being taught: one revision, as a module that learns and as lessons in its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from paceline.trainer.models.decoder import Decoder
from paceline.trainer.online.lessons import Lesson
from paceline.trainer.online.samples import Sample, Sampler
from paceline.wire.revision_folder import Revision


@dataclass(frozen=True, slots=True)
class Student:
    """Attributes:
    revision: that it is; its folder is read again when the next one is written.
    module: its weights.
    sampler: makes samples for it.
    """

    revision: Revision
    module: Decoder
    sampler: Sampler

    @property
    def revision_id(self) -> str:
        return self.revision.revision_id

    def samples(self, lessons: Sequence[Lesson]) -> list[Sample]:
        """Those lessons that there is something to learn from."""
        found = (self.sampler.sample(lesson) for lesson in lessons)
        return [sample for sample in found if sample is not None]
