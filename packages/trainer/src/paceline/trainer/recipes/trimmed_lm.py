"""Recipe `trimmed_lm`: a small decoder over those of the target's tokens that it really says (VocabTrim, FR-Spec).

When to use it: one target, and a drafter that needs no bridge. Its tokens are the target's, so nothing is lost between
vocabularies; its head is a fraction of what the target's whole vocabulary would need.
"""

from __future__ import annotations

import numpy as np

from paceline.trainer.data.reading import Wanted
from paceline.trainer.data.target import Target
from paceline.trainer.models.decoder import Decoder
from paceline.trainer.recipes.base import Job, Made, Making
from paceline.trainer.recipes.cut_vocabulary import Cutter
from paceline.trainer.recipes.head_start import common_tokens
from paceline.trainer.recipes.lm_recipe import decoder_shape, fit, kept, made, texts_of, wanted

VOCABULARY = 8192


class TrimmedLmRecipe:
    """See above."""

    summary = "a small decoder over the tokens that the target says: no bridge, for this target alone"
    takes_parents = False

    def wanted(self, target: Target, making: Making) -> Wanted | None:
        return wanted(target, making)

    def make(self, job: Job) -> Made:
        size = min(job.making.vocab_size or VOCABULARY, job.target.vocab_size)
        path = job.work / f"vocabulary-{size}-{job.data_hash()}.bin"
        cut = np.frombuffer(kept(path, lambda: _chosen(job, size)), "<u4")
        texts = texts_of(job, Cutter(cut, job.target.vocab_size).text)
        decoder = Decoder(decoder_shape(job.making, len(cut), cut=True), job.making.seed)
        judgement = fit(job, decoder, texts, job.making.objective or "forward_kl")
        return made(decoder, cut.tolist(), texts, judgement, "of the target's tokens")


def _chosen(job: Job, size: int) -> bytes:
    learnt, _ = job.split()
    cut = common_tokens((reading.answer for reading in learnt), job.target, size)
    return cut.astype("<u4").tobytes()
