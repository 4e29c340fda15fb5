"""A vocabulary of a drafter's own: byte-level BPE, learnt from the texts that it will draft."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SMALLEST = 256  # tokens besides the special ones: one for each byte, so there is no text that it can't say


def train_vocabulary(texts: Iterable[str], size: int, specials: Sequence[str]) -> str:
    """The content of a tokenizer.json with at most `size` tokens, the special ones first.

    Digits stay single, as in most targets: a number's tokens then begin where the target's do.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(size, SMALLEST + len(specials)),
        special_tokens=list(specials),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    content: str = tokenizer.to_str()
    return content
