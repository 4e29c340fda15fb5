"""Small byte-level vocabularies, made on the spot: what tests cut texts with."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

TEXT = (
    "The capital of France is Paris, and the capital of Italy is Rome. How many apples are there? "
    "There are 12 apples in the basket and 7 on the table; 12 + 7 = 19. naïve café 東京 и так далее"
)


def byte_level(size: int, texts: Sequence[str] = (TEXT,), specials: Sequence[str] = ("<eos>",)) -> str:
    """The tokenizer.json of a byte-level BPE tokenizer with at most `size` tokens, all bytes among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        show_progress=False,
        special_tokens=[AddedToken(name, special=True) for name in specials],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(texts, trainer)
    definition: str = tokenizer.to_str()
    return definition


def vocabulary(size: int, texts: Sequence[str] = (TEXT,), specials: Sequence[str] = ("<eos>",)) -> TokenizerVocabulary:
    return TokenizerVocabulary(byte_level(size, texts, specials))
