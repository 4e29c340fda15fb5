"""What shards hold: the target's answers, and what a teacher-forced pass over them said.

An answer's tokens follow its prompt's. With P prompt tokens and A answer tokens, positions count from 0 at the prompt's
first token: answer token i stands at position P + i and was predicted from position P + i - 1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Tokens = npt.NDArray[np.int32]
Finish = Literal["stop", "length"]
FINISHES: tuple[Finish, ...] = ("stop", "length")
Origin = Mapping[str, Any]
"""What all rows of a folder have in common, as JSON values: target, tokenizer, settings."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What the target says to one prompt.

    Attributes:
        id: of the prompt.
        source: where the prompt comes from, e.g. a data set's name; may be empty.
        prompt_ids: [P] tokens that the target was given, chat template and all.
        answer_ids: [A] tokens that it answered, with the end-of-sequence token if that came.
        finish: "stop" (by itself) or "length" (cut off).
    """

    id: str
    source: str
    prompt_ids: Tokens
    answer_ids: Tokens
    finish: Finish

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What the target thinks at each position of an answer, given everything before it.

    Attributes:
        answer: that was read.
        top_ids: [A, top_k] int32; row i is about answer token i, likeliest first.
        top_log_probs: [A, top_k] float16, natural logarithms; what they leave of the mass is the tail's.
        first: position of features[0].
        features: [P + A - first, layers, hidden] hidden states as bfloat16 bits, layers in the order asked for; one
            has seen its own position's token. `torch.from_numpy(features).view(torch.bfloat16)` reads them.
            Without layers it is empty.
    """

    answer: Answer
    top_ids: npt.NDArray[np.int32]
    top_log_probs: npt.NDArray[np.float16]
    first: int
    features: npt.NDArray[np.uint16]


R = TypeVar("R")


class Kind(ABC, Generic[R]):
    """How rows of one sort become columns and come back.

    Attributes:
        name: stands in every shard.
        schema: of the table.
        raw: columns that don't compress and are written as they are.
        group: most rows in a row group, which is what a reader holds in memory.
    """

    name: str
    schema: pa.Schema
    raw: tuple[str, ...] = ()
    group: int

    @abstractmethod
    def columns(self, row: R) -> dict[str, Any]:
        """Of the schema, by name."""

    @abstractmethod
    def row(self, columns: Mapping[str, Any], origin: Origin) -> R:
        """Raises ValueError: the columns don't fit one another."""

    @abstractmethod
    def num_bytes(self, row: R) -> int:
        """What a row takes in memory, about."""

    def table(self, rows: Sequence[R]) -> pa.Table:
        found = [self.columns(row) for row in rows]
        arrays = {field.name: pa.array([row[field.name] for row in found], field.type) for field in self.schema}
        return pa.table(arrays, schema=self.schema)


_TOKENS = pa.list_(pa.field("item", pa.int32(), nullable=False))
_ANSWER_FIELDS = [
    pa.field("id", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("prompt_ids", _TOKENS, nullable=False),
    pa.field("answer_ids", _TOKENS, nullable=False),
    pa.field("finish", pa.string(), nullable=False),
]


class _Answers(Kind[Answer]):
    name = "answers"
    schema = pa.schema(_ANSWER_FIELDS)
    group = 64

    def columns(self, row: Answer) -> dict[str, Any]:
        return {field.name: getattr(row, field.name) for field in _ANSWER_FIELDS}

    def row(self, columns: Mapping[str, Any], origin: Origin) -> Answer:
        finish, prompt_ids, answer_ids = columns["finish"], columns["prompt_ids"], columns["answer_ids"]
        if finish not in FINISHES:
            raise ValueError(f"finish is {finish!r:.40}; it must be one of {', '.join(FINISHES)}")
        for name, ids in (("prompt_ids", prompt_ids), ("answer_ids", answer_ids)):
            if not len(ids) or ids.min() < 0 or ids.max() >= origin["vocab_size"]:
                raise ValueError(f"{name} are no tokens of a vocabulary of {origin['vocab_size']}")
        return Answer(columns["id"], columns["source"], prompt_ids, answer_ids, finish)

    def num_bytes(self, row: Answer) -> int:
        return row.prompt_ids.nbytes + row.answer_ids.nbytes


class _Readings(Kind[Reading]):
    name = "readings"
    schema = pa.schema(
        [
            *_ANSWER_FIELDS,
            pa.field("top_ids", _TOKENS, nullable=False),
            pa.field("top_log_probs", pa.list_(pa.field("item", pa.float16(), nullable=False)), nullable=False),
            pa.field("first", pa.int32(), nullable=False),
            pa.field("features", pa.binary(), nullable=False),
        ]
    )
    raw = ("features",)
    group = 16

    def columns(self, row: Reading) -> dict[str, Any]:
        return {
            **ANSWERS.columns(row.answer),
            "top_ids": row.top_ids.reshape(-1),
            "top_log_probs": row.top_log_probs.reshape(-1),
            "first": row.first,
            "features": row.features.astype("<u2", copy=False).tobytes(),
        }

    def row(self, columns: Mapping[str, Any], origin: Origin) -> Reading:
        answer = ANSWERS.row(columns, origin)
        first, num_layers = columns["first"], len(origin["layers"])
        if not 0 <= first <= len(answer):
            raise ValueError(f"first is {first}; it must be a position of a text of {len(answer)}")
        top = (len(answer.answer_ids), origin["top_k"])
        shape = (len(answer) - first, num_layers, origin["hidden_size"] if num_layers else 0)
        return Reading(
            answer,
            columns["top_ids"].reshape(top),
            columns["top_log_probs"].reshape(top),
            first,
            np.frombuffer(columns["features"], "<u2").reshape(shape).copy(),
        )

    def num_bytes(self, row: Reading) -> int:
        arrays = (row.top_ids, row.top_log_probs, row.features)
        return ANSWERS.num_bytes(row.answer) + sum(array.nbytes for array in arrays)


ANSWERS: Kind[Answer] = _Answers()
READINGS: Kind[Reading] = _Readings()
