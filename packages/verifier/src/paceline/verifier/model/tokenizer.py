"""The target's tokenizer: text to tokens, and the files that make it elsewhere."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from paceline.verifier.pieces import pieces
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tokenizer_files import tokenizer_files
from paceline.wire.tokenizer_hash import tokenizer_hash

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class TokenizerFile:
    path: str
    content: bytes
    sha256: bytes


class TargetTokenizer:
    """A transformers tokenizer with what a verifier needs of it.

    Args:
        tokenizer: as loaded.
        files: what it was made of, if that is known.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, files: tuple[TokenizerFile, ...] = ()) -> None:
        self.tokenizer = tokenizer
        self._files = files

    @classmethod
    def from_files(cls, files: tuple[TokenizerFile, ...]) -> TargetTokenizer:
        """The tokenizer that another one wrote as `files`. Imports transformers' tokenizers, none of its models."""
        from transformers import AutoTokenizer  # late, for those who only need the type

        with tempfile.TemporaryDirectory() as folder:
            for file in files:
                path = Path(folder) / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(file.content)
            return cls(AutoTokenizer.from_pretrained(folder, trust_remote_code=False), files)

    def tokenize(self, text: str) -> list[int]:
        """Ids of a plain text, with whatever special tokens the tokenizer adds by itself."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

    def apply_chat_template(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of a conversation, ready for the assistant's answer.

        Raises:
            PacelineError: NO_CHAT_TEMPLATE, or MALFORMED if the template refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise PacelineError(
                Reason.NO_CHAT_TEMPLATE,
                "this model has no chat template; send the prompt as text or token_ids",
                field="messages",
            )
        try:
            ids = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as error:  # a template is a program of the model's makers and may raise anything
            why = f"the model's chat template refuses these messages: {str(error)[:200]}"
            raise PacelineError(Reason.MALFORMED, why, field="messages") from error
        return list(ids)

    @cached_property
    def files(self) -> tuple[TokenizerFile, ...]:
        """The tokenizer as files that transformers (and `tokenizers`, if it is a fast one) load, sorted by path."""
        if self._files:
            return self._files
        contents = tokenizer_files(self.tokenizer).items()
        return tuple(TokenizerFile(path, content, hashlib.sha256(content).digest()) for path, content in contents)

    @property
    def contents(self) -> dict[str, bytes]:
        """The files' contents by path."""
        return {file.path: file.content for file in self.files}

    @cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """The bytes that each token stands for, by id. Takes some tenths of a second."""
        return pieces(self.contents, self.tokenizer, len(self.tokenizer))

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none for ids that the model has and the tokenizer hasn't."""
        return self.pieces[token] if token < len(self.pieces) else b""

    @cached_property
    def content_hash(self) -> str:
        """Names the tokenizer by content: the same vocabulary in the same files has the same hash."""
        return tokenizer_hash((file.path, file.sha256) for file in self.files)
