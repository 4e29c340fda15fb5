"""A drafter that is being taught: one revision, as a module that learns and as lessons in its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paceline.trainer.models.decoder import Decoder
from paceline.trainer.models.graph import decoder_card
from paceline.trainer.models.revision import Vocabulary as Words
from paceline.trainer.models.revision import Written, read_module, read_vocabulary, write_revision
from paceline.trainer.online.lessons import Lesson, TargetIdentity
from paceline.trainer.online.samples import Sample, Sampler
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision_folder import WEIGHTS, Revision
from paceline.wire.vocabulary.base import Vocabulary
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary


@dataclass(frozen=True, slots=True)
class Student:
    """Attributes:
    revision: that it is.
    module: its weights.
    sampler: makes samples for it.
    words: its vocabulary as revisions have it.
    """

    revision: Revision
    module: Decoder
    sampler: Sampler
    words: Words

    @property
    def revision_id(self) -> str:
        return self.revision.revision_id

    def samples(self, lessons: Sequence[Lesson]) -> list[Sample]:
        """Those lessons that there is something to learn from."""
        found = (self.sampler.sample(lesson) for lesson in lessons)
        return [sample for sample in found if sample is not None]

    def write(
        self, folder: Path, module: Decoder, manifest: trainer_pb2.RevisionManifest, quantization: str
    ) -> Written:
        """The next revision. It says of itself what the manifest says, and else what this one does. Weights go with it
        if they came with this one, in bfloat16: else the next refit would begin from rounded ones."""
        complete = trainer_pb2.RevisionManifest()
        complete.CopyFrom(manifest)
        complete.parent = self.revision_id
        complete.model = self.revision.manifest.model
        complete.tokenizer_hash = self.revision.manifest.tokenizer_hash
        weights = "bfloat16" if self.revision.has(WEIGHTS) or quantization != "none" else None
        card = decoder_card(module.shape, quantization=quantization)
        return write_revision(folder, module, card, self.words, complete, weights=weights)


def open_student(folder: Path, identity: TargetIdentity, target: Vocabulary) -> Student:
    """Reads a revision's folder.

    Raises:
        PacelineError: VOCABULARY_MISMATCH: it was made for another target's tokenizer; UNUSABLE_REVISION: it can't be
            taught from lessons; others as `read_module` raises them.
    """
    module, revision = read_module(folder)
    if not isinstance(module, Decoder):
        raise PacelineError(
            Reason.UNUSABLE_REVISION,
            "revision: it is a feature head, and lessons have no features to teach it from; make a new one with "
            "bootstrap --recipe feature_head",
            field="kind",
            value=revision.card.KIND,
        )
    made_for = revision.manifest.tokenizer_hash
    if made_for and made_for != identity.tokenizer_hash:
        raise PacelineError(
            Reason.VOCABULARY_MISMATCH,
            f"revision: tokenizer_hash is {made_for[:16]}; the target's is {identity.tokenizer_hash[:16]}; make a "
            "revision for this target",
            field="tokenizer_hash",
            value=made_for,
            limit=identity.tokenizer_hash,
        )
    words = read_vocabulary(revision)
    if isinstance(words, str):
        sampler = Sampler(target, identity.vocab_size, student=TokenizerVocabulary(words))
    else:
        ids = np.array(words, np.int64)
        if ids.max() >= identity.vocab_size:
            raise PacelineError(
                Reason.UNUSABLE_REVISION,
                f"revision: vocabulary.bin has an id {ids.max()}; the target's are below {identity.vocab_size}",
                field="vocabulary.bin",
                value=int(ids.max()),
                limit=identity.vocab_size,
            )
        sampler = Sampler(target, identity.vocab_size, cut=ids)
    return Student(revision, module, sampler, words)
