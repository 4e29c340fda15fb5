"""Schemas, constraints of the tiny target, and a validator for the keywords that the schemas use."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

from llguidance import LLTokenizer
from tiny_models import EOS, VOCAB, make_tokenizer

from paceline.verifier.grammar.constraint import Constraint
from paceline.verifier.grammar.guide import Guide
from paceline.verifier.grammar.schema import checked, compiled
from paceline.verifier.model.tokenizer import TargetTokenizer

DENSE = {"whitespace_flexible": False}  # llguidance's: no blanks, so that random models come to an end soon
SCHEMAS: dict[str, dict[str, Any]] = {
    "object": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "happy": {"type": "boolean"},
        },
        "required": ["name", "age", "happy"],
        "additionalProperties": False,
        "x-guidance": DENSE,
    },
    "list of words": {
        "type": "array",
        "items": {"enum": ["red", "green", "grün", "blue"]},
        "minItems": 2,
        "maxItems": 5,
        "x-guidance": DENSE,
    },
    "one of two": {
        "anyOf": [
            {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"], "additionalProperties": False},
            {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"], "additionalProperties": False},
        ]
    },
}


@functools.cache
def target_tokenizer() -> TargetTokenizer:
    return TargetTokenizer(make_tokenizer())


@functools.cache
def _ll_tokenizer() -> LLTokenizer:
    return LLTokenizer(target_tokenizer().contents["tokenizer.json"].decode(), n_vocab=VOCAB, eos_token=[EOS])


def guide_for(schema: dict[str, Any], committed: Sequence[int] = ()) -> Guide:
    guide = Guide(compiled(checked(json.dumps(schema)), _ll_tokenizer()), VOCAB, frozenset({EOS}))
    guide.take(committed)
    return guide


def constraint_for(schema: dict[str, Any], committed: Sequence[int] = ()) -> Constraint:
    return Constraint(guide_for(schema, committed))


def encoded(text: str) -> list[int]:
    return list(target_tokenizer().tokenize(text))


def valid(schema: dict[str, Any], document: Any) -> bool:
    """Whether a schema of this file admits a document."""
    if "anyOf" in schema:
        return any(valid(one, document) for one in schema["anyOf"])
    if "enum" in schema:
        return document in schema["enum"]
    if "const" in schema:
        return document == schema["const"] and type(document) is type(schema["const"])
    match schema.get("type"):
        case "object":
            known = schema["properties"]
            return (
                isinstance(document, dict)
                and set(schema["required"]) <= set(document) <= set(known)
                and all(valid(known[name], value) for name, value in document.items())
            )
        case "array":
            return (
                isinstance(document, list)
                and schema["minItems"] <= len(document) <= schema["maxItems"]
                and all(valid(schema["items"], item) for item in document)
            )
        case "string":
            return isinstance(document, str) and len(document) <= schema.get("maxLength", 10**9)
        case "integer":
            return type(document) is int and schema["minimum"] <= document <= schema["maximum"]
        case "boolean":
            return isinstance(document, bool)
        case "null":
            return document is None
    raise AssertionError(f"no rule for {schema}")


class Failing:
    """A matcher that is too complex after `limit` tokens, and stays in error then, as llguidance's do."""

    def __init__(self, matcher: Any, limit: int) -> None:
        self._matcher, self._limit, self._num, self._failed = matcher, limit, 0, False

    def deep_copy(self) -> Failing:
        assert not self._failed
        twin = Failing(self._matcher.deep_copy(), self._limit)
        twin._num = self._num
        return twin

    def try_consume_tokens(self, tokens: list[int]) -> int:
        for index, token in enumerate(tokens):
            if self._num == self._limit:
                self._failed = True
            if self._failed or not self._matcher.try_consume_tokens([token]):
                return index
            self._num += 1
        return len(tokens)

    def rollback(self, count: int) -> bool:
        self._num -= count
        return self._matcher.rollback(count)

    def compute_bitmask(self) -> bytes:
        return self._matcher.compute_bitmask()

    def is_accepting(self) -> bool:
        return self._matcher.is_accepting()

    def is_error(self) -> bool:
        return self._failed

    def get_error(self) -> str:
        return "ParserTooComplex\n<state>the schema, the text</state>"


def failing(limit: int) -> Guide:
    """Of "object"; it can't be followed beyond so many tokens."""
    return Guide(Failing(guide_for(SCHEMAS["object"])._origin, limit), VOCAB, frozenset({EOS}))
