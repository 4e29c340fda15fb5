"""A vocabulary of a drafter's own: byte-level BPE, learnt from the texts that it will draft."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from paceline.trainer.recipes.token_bytes import TokenBytes, token_bytes

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


class OwnVocabulary:
    """A vocabulary made by `train_vocabulary`, as far as texts need it.

    Attributes:
        meanings: of its tokens.
        size: number of ids.
        special_ids: by name.
    """

    def __init__(self, tokenizer_json: str) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.encode_special_tokens = True  # in a text their names are text
        self.meanings: TokenBytes = token_bytes(tokenizer_json)
        self.size = len(self.meanings.data)
        self.special_ids = {name: token for token, name in self.meanings.specials.items()}
        self._ids = self.meanings.ids()

    def encode(self, data: bytes) -> list[int]:
        """Tokens whose bytes are `data`; bytes that belong to no character are tokens of their own."""
        found: list[int] = []
        for part in _characters(data):
            if isinstance(part, str):
                found += self._tokenizer.encode(part, add_special_tokens=False).ids
            else:
                found += [self._ids[bytes([byte])] for byte in part]
        return found

    def id_of(self, data: bytes) -> int | None:
        """The token with exactly these bytes, if there is one."""
        return self._ids.get(data)


def _characters(data: bytes) -> Iterator[str | bytes]:
    """Stretches of whole characters, and of bytes that are none."""
    while data:
        try:
            yield data.decode()
            return
        except UnicodeDecodeError as error:
            if error.start:
                yield data[: error.start].decode()
            yield data[error.start : error.end]
            data = data[error.end :]
