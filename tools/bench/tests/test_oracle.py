"""What bridges make of perfect drafts, for the default target and tokenizers of other models."""

from __future__ import annotations

import inspect
import json
from functools import cache

import pytest
from oracle import Survival, survival
from real_vocabularies import real_vocabulary

import paceline.drafter.automaton
import paceline.drafter.link
import paceline.drafter.merge
import paceline.drafter.session
import paceline.drafter.strategies.suffix
from paceline.drafter.vocabulary import BRIDGES
from paceline.drafter.vocabulary.base import BridgeKind
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

TARGET = "smollm2"
PROSE = """
A drafter changes how fast the answer comes, never the answer. Each output token is a pure function of the request's
seed, of the token's position in the text, and of what the target thinks there. So drafters need no trust: one that is
wrong, late, malicious or dead costs speed at most.

Caches of keys and values were described in 2017; by 2023, 8 of 10 servers that we counted had one. "Why not?", asked
the editor, who hadn't read chapter 3. Because it isn't free: 1,500 tokens of a model with 32 layers take 196 MB, and
memory is what's scarce. There are three ways out:

1. Keep fewer heads, as grouped-query attention does.
2. Keep fewer bits; quantisation to 8 bits loses little.
3. Keep what many requests begin with only once.

The old lighthouse-keeper of Ålesund, Mr. Håkonsen, woke at half past four and lit the stove. Outside, the wind was
tearing at the shutters; gulls screamed over the breakwater. He'd been alone here since Ingrid's death – eleven winters
– and he no longer minded. What he minded were visitors, naïve young journalists who asked about loneliness and wrote
down "picturesque".
"""
CODE = [
    paceline.drafter.automaton,
    paceline.drafter.strategies.suffix,
    paceline.drafter.session,
    paceline.drafter.merge,
    paceline.drafter.link,
]


@cache
def kind(bridge: str, draft: str) -> BridgeKind:
    return BRIDGES[bridge](real_vocabulary(TARGET), real_vocabulary(draft))


def told(bridge: BridgeKind, draft: str, text: str) -> Survival:
    """The oracle drafts the second part of a text; its first line is the prompt."""
    target: TokenizerVocabulary = real_vocabulary(TARGET)
    prompt, _, answer = text.strip().partition("\n")
    return survival(bridge, target, real_vocabulary(draft), target.encode(prompt), target.encode("\n" + answer))


@pytest.mark.parametrize("draft", ["qwen", "deepseek", "mistral_v3"])
def test_perfect_drafts_in_another_vocabulary_survive_string_exact(draft: str) -> None:
    bridge = kind("string_exact", draft)
    prose = told(bridge, draft, PROSE)
    code = told(bridge, draft, inspect.getsource(CODE[1]))
    assert prose.acceptance >= 0.95
    assert code.acceptance >= 0.9
    assert min(prose.tokens_per_step, code.tokens_per_step) > 7, "of 8 draft tokens, and one of the target's own"


def test_the_cache_of_runs_overtakes_the_intersection_with_use() -> None:
    """After 5,000 tokens, on the same text."""
    draft = "mistral_v3"
    learned = BRIDGES["ngram_cache"](real_vocabulary(TARGET), real_vocabulary(draft))
    texts = [inspect.getsource(module) for module in CODE]
    assert sum(len(real_vocabulary(TARGET).encode(text)) for text in texts[:-1]) > 5_000
    for text in texts[:-1]:
        told(learned, draft, text)
    after, without = told(learned, draft, texts[-1]), told(kind("intersection", draft), draft, texts[-1])
    assert after.acceptance > without.acceptance + 0.02, json.dumps([after.acceptance, without.acceptance])
    assert after.tokens_per_step > without.tokens_per_step


def test_the_same_vocabulary_loses_nothing() -> None:
    for bridge in ("identity", "intersection", "string_exact", "ngram_cache"):
        result = told(kind(bridge, TARGET), TARGET, PROSE)
        assert result.acceptance > 0.98, bridge
    assert told(kind("identity", TARGET), TARGET, PROSE).acceptance == 1.0
