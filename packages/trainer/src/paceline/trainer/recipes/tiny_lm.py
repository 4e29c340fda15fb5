"""Recipe `tiny_lm`: a small decoder with a vocabulary of its own, a truly foreign drafter.

When to use it: the drafter has to run where nothing of the target is, serve several targets, or be so small that the
target's vocabulary would be most of it. It learns its vocabulary from the target's texts, then the texts themselves,
and then what the target thought while it answered (`learning.objectives.hybrid`; FastDraft and DistillSpec go in
these steps).
"""

from __future__ import annotations

from collections.abc import Iterator

from paceline.trainer.data.reading import Wanted
from paceline.trainer.data.target import Target
from paceline.trainer.models.decoder import Decoder
from paceline.trainer.recipes.alignment import Aligner
from paceline.trainer.recipes.base import Job, Made, Making
from paceline.trainer.recipes.lm_recipe import decoder_shape, fit, kept, made, texts_of, wanted
from paceline.trainer.recipes.own_vocabulary import train_vocabulary
from paceline.wire.vocabulary.base import Vocabulary
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

VOCABULARY = 8192
MAX_SPECIALS = 64  # of the target's that its texts have


class TinyLmRecipe:
    """See above."""

    summary = "a small decoder with a vocabulary of its own: runs anywhere, for any target"
    takes_parents = False

    def wanted(self, target: Target, making: Making) -> Wanted | None:
        return wanted(target, making)

    def make(self, job: Job) -> Made:
        target = TokenizerVocabulary(job.target.tokenizer.backend_tokenizer.to_str())
        size = job.making.vocab_size or VOCABULARY
        path = job.work / f"tokenizer-{size}-{job.data_hash()}.json"
        tokenizer_json = kept(path, lambda: learnt_vocabulary(job, target, size).encode()).decode()
        own = TokenizerVocabulary(tokenizer_json)
        texts = texts_of(job, Aligner(target, job.target.vocab_size, own).text)
        decoder = Decoder(decoder_shape(job.making, own.size, cut=False), job.making.seed)
        judgement = fit(job, decoder, texts, job.making.objective or "hybrid")
        return made(decoder, tokenizer_json, texts, judgement, "tokens of its own")


def learnt_vocabulary(job: Job, target: Vocabulary, size: int) -> str:
    """The content of a tokenizer.json, from the texts that are learnt from, prompts included."""
    return train_vocabulary(_texts(job, target), size, special_names(job, target))


def special_names(job: Job, target: Vocabulary) -> list[str]:
    """Special tokens of the target that are in its texts, or end them; in the order of their ids."""
    found = set(job.target.eos_token_ids)
    learnt, _ = job.split()
    for reading in learnt:
        for ids in (reading.answer.prompt_ids, reading.answer.answer_ids):
            found.update(ids.tolist())
    names = (target.special(token) for token in sorted(found))
    return [name for name in names if name is not None][:MAX_SPECIALS]


def _texts(job: Job, target: Vocabulary) -> Iterator[str]:
    learnt, _ = job.split()
    for reading in learnt:
        for ids in (reading.answer.prompt_ids, reading.answer.answer_ids):
            data = b"".join(target.bytes_of(token) or b"" for token in ids.tolist())
            yield data.decode(errors="ignore")
