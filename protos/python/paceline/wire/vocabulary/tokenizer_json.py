"""A vocabulary as a `tokenizer.json` of Hugging Face describes it; needs the tokenizers package, not transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, pairwise

from tokenizers import Tokenizer

from paceline.wire.vocabulary.base import Piece
from paceline.wire.vocabulary.refusals import malformed, not_understood
from paceline.wire.vocabulary.tokenizer_format import TokenizerFormat, read_tokenizer_json

# Tries out what tokenizers cut differently: numbers, contractions, case, spaces, lines, code, scripts, emoji, accents.
PROBE = (
    "It's 2024: I'LL pay 1,234,567.89 (or 12%) for helloWorld_v2!\n\n  def f(x):\n\t\treturn  x**2  # naïve   \r\n"
    "https://example.org/a?b=c <|im_end|> ... ~~ 中文字符测试 かな カナ 한국어 русский العربية हिन्दी "
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \u00e9 e\u0301 \u00a0\u200b "
)


class TokenizerVocabulary:
    """A `Vocabulary` made of the content of a tokenizer.json.

    What a tokenizer does to a text before it encodes it is left out: normalisation, because a bridge must not change a
    text that models have written, and the space that SentencePiece puts before a text, because text here goes on.

    Raises:
        PacelineError: MALFORMED if the content is not a tokenizer; VOCABULARY_MISMATCH if its tokens don't stand for
            bytes (see `tokenizer_format`).
    """

    def __init__(self, tokenizer_json: str) -> None:
        checked = read_tokenizer_json(tokenizer_json)
        with _as_refusals("tokenizer_json"):
            self._tokenizer = Tokenizer.from_str(checked.definition)
        self._tokenizer.encode_special_tokens = True  # in a text their names are text
        self._meanings = checked.meanings
        self._specials = checked.specials
        self._special_ids = {name: token for token, name in checked.specials.items()}
        self._tokens = _by_bytes(checked)
        self.size = len(checked.meanings)
        self.reach = checked.reach
        self._mark = checked.mark
        self._try_out()
        self.content_hash = self._hash(checked.rules)

    def bytes_of(self, token: int) -> bytes | None:
        return self._meanings[token] if 0 <= token < self.size else None

    def token_of(self, data: bytes) -> int | None:
        return self._tokens.get(data)

    def special(self, token: int) -> str | None:
        return self._specials.get(token)

    def special_id(self, name: str) -> int | None:
        return self._special_ids.get(name)

    def encode(self, text: str) -> list[int]:
        if self._mark and self._mark in text:
            return [token for piece in self.pieces(text) for token in piece.tokens]
        with _as_refusals("text"):
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def pieces(self, text: str) -> list[Piece]:
        if not self._mark or self._mark not in text:
            return self._pieces(text)
        # The tokenizers package would take the mark for a space, which it isn't.
        spelled = [self._tokens.get(bytes([byte])) for byte in self._mark.encode()]
        mark = Piece(self._mark, tuple(token for token in spelled if token is not None))
        parts = [self._pieces(part) for part in text.split(self._mark)]
        return [*parts[0], *(piece for part in parts[1:] for piece in (mark, *part))]

    def _pieces(self, text: str) -> list[Piece]:
        with _as_refusals("text"):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        ids, words, offsets = encoding.ids, encoding.word_ids, encoding.offsets
        # Characters that have no token at all belong to the piece before them.
        firsts = [0, *(place for place in range(1, len(ids)) if words[place] != words[place - 1])]
        starts = [0, *(offsets[first][0] for first in firsts[1:]), len(text)]
        return [
            Piece(text[start:end], tuple(ids[first:last]))
            for (start, end), (first, last) in zip(pairwise(starts), pairwise([*firsts, len(ids)]), strict=False)
        ]

    def _try_out(self) -> None:
        """Refuses tokenizers that lose or change text, as those do that drop spaces."""
        for piece in self.pieces(PROBE):
            meanings = [self.bytes_of(token) for token in piece.tokens]
            if None not in meanings and b"".join(filter(None, meanings)) != piece.text.encode():
                raise not_understood("the tokens of a text don't give the text back")

    def _hash(self, rules: tuple[str, ...]) -> str:
        whole = hashlib.sha256()
        meanings = (b"-" if meaning is None else b"+" + meaning for meaning in self._meanings)
        specials = (f"{token} {name}".encode() for token, name in sorted(self._specials.items()))
        probe = (str(token).encode() for token in self.encode(PROBE))
        for kind in (meanings, specials, (rule.encode("utf-8", "surrogatepass") for rule in rules), probe):
            items = list(kind)
            whole.update(len(items).to_bytes(4))
            whole.update(b"".join(chain.from_iterable((len(item).to_bytes(4), item) for item in items)))
        return whole.hexdigest()


def _by_bytes(checked: TokenizerFormat) -> dict[bytes, int]:
    """Tokens by their bytes. Of several, the one that encoding gives: a character goes before a byte by its number."""
    tokens: dict[bytes, int] = {}
    for token, meaning in enumerate(checked.meanings):
        if meaning is not None and token not in checked.fallbacks:
            tokens.setdefault(meaning, token)
    for token in sorted(checked.fallbacks):
        meaning = checked.meanings[token]
        if meaning is not None:
            tokens.setdefault(meaning, token)
    return tokens


@contextmanager
def _as_refusals(field: str) -> Iterator[None]:
    """Turns the ways in which the tokenizers package fails into one. Its panics derive from BaseException."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise malformed(field, f"can't be used by the tokenizers package ({type(error).__name__})") from error
        raise
