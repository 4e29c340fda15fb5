"""JSON schemas to grammars. Imports little, since a child process that starts anew each time does it, too (`trial`)."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

# Between the tokens of a document: nothing, one space, or a line break with an indentation. Without a bound a model
# that is fond of blanks writes them for ever.
WHITESPACE = r"( |\r?\n[ \t]{0,64})"
# llguidance's own bounds on what compiling and each token may take, written down, and fewer states, each of which takes
# a kilobyte. Messages without the parser's state: that has the schema and the text in it.
LIMITS = LLParserLimits(
    max_items_in_row=2000,
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=500_000,
    verbose_errors=False,
)


class BadSchema(Exception):
    """The message says why, and may name parts of the schema."""


def checked(text: str) -> str:
    """The schema as JSON that is nothing else: llguidance takes its text for a part of a larger one.

    Raises:
        BadSchema: it isn't a JSON object.
    """
    try:
        schema = json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise BadSchema("it is nested too deeply") from error
    except ValueError as error:
        raise BadSchema(f"it is no JSON: {error}") from error
    if not isinstance(schema, dict):
        raise BadSchema("a schema is a JSON object")
    return json.dumps(schema)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def compiled(schema: str, tokenizer: LLTokenizer) -> LLMatcher:
    """A matcher at the beginning of a document. For schemas made to take long it takes for ever: see `trial`.

    Args:
        schema: `checked`.
        tokenizer: the target's.

    Raises:
        BadSchema: llguidance can't make a grammar of it, or no document can begin.
    """
    options: Any = {"whitespace_pattern": WHITESPACE}
    try:
        grammar = LLMatcher.grammar_from_json_schema(schema, defaults=options)
    except ValueError as error:
        raise BadSchema(str(error)) from error
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()  # some say only now that they can't; and copies have what this took longest for
    if matcher.is_error():
        raise BadSchema(matcher.get_error())
    return matcher
