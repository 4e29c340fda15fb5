"""A tokenizer.json as a vocabulary, and a growing text in its tokens."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_vocabularies import MERGES, OTHER_MERGES, added, byte_level, sentencepiece, unigram, vocabulary

from paceline.drafter.vocabulary import retokenizer
from paceline.drafter.vocabulary.committed import follow, runs
from paceline.drafter.vocabulary.retokenizer import Retokenizer, stretches
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.vocabulary import tokenizer_format
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

Json = dict[str, Any]
BYTE_LEVEL = vocabulary(byte_level())
SENTENCEPIECE = vocabulary(sentencepiece())
VOCABULARIES = [BYTE_LEVEL, SENTENCEPIECE, vocabulary(byte_level(OTHER_MERGES)), vocabulary(unigram())]
TEXTS = st.text(alphabet=st.sampled_from(list("hello wrd\n'sé😀t12.")) | st.characters(exclude_categories=["Cs"]))


def meanings(of: TokenizerVocabulary, text: str) -> list[bytes | None]:
    return [of.bytes_of(token) for token in of.encode(text)]


@pytest.mark.parametrize("of", VOCABULARIES)
@settings(deadline=None)
@given(text=TEXTS)
def test_bytes_in_are_bytes_out(of: TokenizerVocabulary, text: str) -> None:
    assert b"".join(part or b"" for part in meanings(of, text)) == text.encode()
    assert [token for piece in of.pieces(text) for token in piece.tokens] == of.encode(text)
    assert "".join(piece.text for piece in of.pieces(text)) == text


def test_a_token_means_the_same_wherever_it_stands() -> None:
    assert meanings(BYTE_LEVEL, "hello world") == [b"hello", b" world"]
    assert meanings(SENTENCEPIECE, "a word") == [b"a", b" wor", b"d"]
    assert meanings(vocabulary(unigram()), "hello world") == [b"hello", b" world"]
    assert meanings(SENTENCEPIECE, "\n中") == [b"\n", b"\xe4", b"\xb8", b"\xad"]


def test_a_text_goes_on_so_no_space_is_put_before_it() -> None:
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    prefixed = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    for whole in (
        sentencepiece(),
        sentencepiece(normalizer=None, pre_tokenizer=metaspace),
        sentencepiece(
            normalizer=None, pre_tokenizer={"type": "Metaspace", "replacement": "▁", "add_prefix_space": True}
        ),
        byte_level(pre_tokenizer=prefixed),
        byte_level(pre_tokenizer={"type": "Sequence", "pretokenizers": [prefixed]}),
    ):
        assert meanings(vocabulary(whole), "wor")[0] in (b"w", b"wor")


def test_the_mark_for_a_space_is_a_character_of_its_own_in_a_text() -> None:
    assert b"".join(filter(None, meanings(SENTENCEPIECE, "a▁b c"))) == "a▁b c".encode()
    assert [piece.text for piece in SENTENCEPIECE.pieces("a▁b")] == ["a", "▁", "b"]


def test_text_that_models_wrote_is_not_normalised() -> None:
    composing = vocabulary(byte_level(normalizer={"type": "NFC"}))
    assert b"".join(filter(None, meanings(composing, "e\u0301"))) == "e\u0301".encode()


def test_special_tokens_have_names_and_no_bytes_and_their_names_are_text() -> None:
    end = BYTE_LEVEL.special_id("<end>")
    assert end == BYTE_LEVEL.size - 1
    assert (BYTE_LEVEL.special(end), BYTE_LEVEL.bytes_of(end)) == ("<end>", None)
    assert end not in BYTE_LEVEL.encode("a<end>b")
    assert BYTE_LEVEL.special(0) is None
    assert BYTE_LEVEL.special_id("<start>") is None
    assert BYTE_LEVEL.bytes_of(BYTE_LEVEL.size) is None
    assert BYTE_LEVEL.bytes_of(-1) is None


def test_unk_is_neither_text_nor_special() -> None:
    assert (SENTENCEPIECE.bytes_of(0), SENTENCEPIECE.special(0), SENTENCEPIECE.special_id("<unk>")) == (
        None,
        None,
        None,
    )
    assert SENTENCEPIECE.special(1) == "<s>"


def test_added_tokens_that_are_not_special_are_text() -> None:
    whole = byte_level()
    token = whole["added_tokens"][-1]["id"] + 1
    whole["added_tokens"].append(added(token, "<a tool's call>", special=False))
    of = vocabulary(whole)
    assert meanings(of, "x<a tool's call>y") == [b"x", b"<a tool's call>", b"y"]
    assert of.reach >= len("<a tool's call>")


def test_of_tokens_with_the_same_bytes_the_one_is_found_that_encoding_gives() -> None:
    assert SENTENCEPIECE.token_of(b"a") == SENTENCEPIECE.encode("a")[0]
    assert SENTENCEPIECE.token_of(b"\n") == SENTENCEPIECE.encode("\n")[0]
    assert SENTENCEPIECE.token_of(b"no such token") is None


def test_the_hash_is_of_what_is_mapped_and_not_of_how_it_is_written() -> None:
    whole = byte_level()
    dressed = json.loads(json.dumps(whole))
    dressed["model"]["merges"] = [merge.split() for merge in MERGES]
    dressed["model"]["dropout"] = 0.5
    dressed["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": False,
        "use_regex": True,
    }
    dressed["padding"] = None
    assert vocabulary(dressed).content_hash == BYTE_LEVEL.content_hash


@pytest.mark.parametrize(
    "changed",
    [
        byte_level(OTHER_MERGES),
        byte_level((*MERGES[1::-1], *MERGES[2:])),
        byte_level(specials=("<stop>",)),
        byte_level(specials=("<end>", "<more>")),
        byte_level(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": "hello"}, "behavior": "Isolated", "invert": False},
                    {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
                ],
            }
        ),
    ],
)
def test_the_hash_differs_for_other_meanings_names_merges_and_cuts(changed: Json) -> None:
    assert vocabulary(changed).content_hash != BYTE_LEVEL.content_hash


def without(whole: Json, *path: str) -> Json:
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return whole


def changed(change: Callable[[Json], Any]) -> Json:
    whole = byte_level()
    change(whole)
    return whole


@pytest.mark.parametrize(
    ("content", "field"),
    [
        ("{", "tokenizer_json"),
        ("[" * 100_000, "tokenizer_json"),
        ("[]", "tokenizer_json"),
        ("{}", "model"),
        (without(byte_level(), "model", "vocab"), "model.vocab"),
        (without(byte_level(), "model", "merges"), "model.merges"),
        (changed(lambda whole: whole["model"]["vocab"].update(a=-1)), "model.vocab"),
        (changed(lambda whole: whole["model"]["vocab"].update(a=1 << 40)), "model.vocab"),
        (changed(lambda whole: whole["model"]["vocab"].update(a=True)), "model.vocab"),
        (changed(lambda whole: whole["model"]["vocab"].update(a=7, b=7)), "model.vocab"),
        (changed(lambda whole: whole["model"]["vocab"].update({"\ud800": 5000})), "tokenizer_json"),
        (changed(lambda whole: whole["model"].update(vocab=[["a", 0.0], "b"])), "model.vocab"),
        (changed(lambda whole: whole["model"].update(type="Unigram", vocab=[["a", 0.0]], unk_id=[])), "tokenizer_json"),
        (changed(lambda whole: whole["model"].update(merges=["no such"])), "tokenizer_json"),
        (changed(lambda whole: whole["model"].update(merges=[3])), "model.merges"),
        (changed(lambda whole: whole.update(added_tokens={})), "added_tokens"),
        (changed(lambda whole: whole.update(added_tokens=[3])), "added_tokens[0]"),
        (changed(lambda whole: whole.update(added_tokens=[added(-5, "x")])), "added_tokens[0].id"),
        (changed(lambda whole: whole.update(added_tokens=[added(5, "")])), "added_tokens[0].content"),
        (changed(lambda whole: whole.update(added_tokens=[added(5, "\ud800")])), "added_tokens[0].content"),
        ('{"normalizers":[' * 300 + "]}" * 300, "model"),
        ('{"model":{"vocab":{},"merges":[]},"decoder":' + '{"decoders":[' * 480 + "]}" * 480 + "}", "tokenizer_json"),
        (changed(lambda whole: whole.update(added_tokens=[added(5, "x"), added(5, "y")])), "added_tokens"),
        (sentencepiece(pre_tokenizer={"type": "Metaspace", "replacement": 3}), "Metaspace.replacement"),
    ],
)
def test_what_is_no_tokenizer_is_refused_by_field(content: str | Json, field: str) -> None:
    with pytest.raises(PacelineError) as caught:
        TokenizerVocabulary(content if isinstance(content, str) else json.dumps(content))
    assert (caught.value.reason, caught.value.field) == (Reason.MALFORMED, field)


def test_strange_words_mean_nothing() -> None:
    whole = byte_level()
    words = len(whole["model"]["vocab"]) + 1
    whole["model"]["vocab"] |= {"": words, "中": words + 1}
    of = vocabulary(whole)
    assert (of.bytes_of(words), of.bytes_of(words + 1), of.token_of(b"")) == (None, None, None)


def test_a_file_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_format, "MAX_CHARS", 1000)
    with pytest.raises(PacelineError, match="at most 1000"):
        vocabulary(byte_level())


@pytest.mark.parametrize(
    "whole",
    [
        byte_level(pre_tokenizer={"type": "Whitespace"}, decoder=None),
        changed(lambda whole: whole["model"].update(type="WordPiece")),
        changed(lambda whole: whole["model"].update(end_of_word_suffix="</w>")),
        byte_level(
            pre_tokenizer={
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"String": " "}, "behavior": "Removed", "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
                ],
            }
        ),
    ],
)
def test_tokenizers_whose_tokens_are_not_bytes_are_refused_with_the_reason(whole: Json) -> None:
    with pytest.raises(PacelineError, match="can't be bridged: ") as caught:
        vocabulary(whole)
    assert caught.value.reason == Reason.VOCABULARY_MISMATCH


def test_a_pattern_that_never_ends_is_an_error_and_not_a_panic() -> None:
    hostile = {"type": "Split", "pattern": {"Regex": "(a|a|é)*$"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    of = vocabulary(byte_level(pre_tokenizer={"type": "Sequence", "pretokenizers": [hostile, level]}))
    with pytest.raises(PacelineError, match="PanicException"):
        of.encode("a" * 40 + "b")


# A growing text


@st.composite
def cut_bytes(draw: st.DrawFn) -> list[bytes]:
    """A text, and sometimes bytes that are none, in parts that may end within characters."""
    data = draw(st.one_of(TEXTS.map(str.encode), st.binary(max_size=30), TEXTS.map(lambda text: text.encode() * 9)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[start:end] for start, end in pairwise([0, *cuts, len(data)])]


@pytest.mark.parametrize("of", VOCABULARIES)
@settings(deadline=None)
@given(parts=cut_bytes())
def test_text_that_grows_has_the_tokens_of_the_whole(of: TokenizerVocabulary, parts: list[bytes]) -> None:
    growing, whole = Retokenizer(of), Retokenizer(of)
    for part in parts:
        growing.append(part)
    whole.append(b"".join(parts))
    assert (growing.tokens, growing.held) == (whole.tokens, whole.held)
    data = b"".join(of.bytes_of(token) or b"" for token in growing.tokens)
    assert data + growing.held == b"".join(parts)
    assert b"".join(parts).endswith(growing.tail)
    found, held = stretches(of, b"".join(parts))
    assert [token for stretch in found for token in stretch.tokens] == whole.tokens
    assert held == whole.held


def test_only_the_end_is_encoded_anew() -> None:
    text = Retokenizer(BYTE_LEVEL)
    for _ in range(1000):
        text.append(b" world, hello")
        assert len(text.tail) < 64
    assert len(text.tokens) == 1000 * len(BYTE_LEVEL.encode(" world, hello"))


def test_text_without_words_is_cut_all_the_same() -> None:
    text = Retokenizer(BYTE_LEVEL)
    for _ in range(40):
        text.append(b"\n \n" * 100)
        assert len(text.tail) <= retokenizer.MAX_TAIL + 300
    assert b"".join(BYTE_LEVEL.bytes_of(token) or b"" for token in text.tokens) == b"\n \n" * 4000


def test_a_contraction_that_comes_in_parts_is_not_settled_too_early() -> None:
    of = vocabulary(byte_level(("' l", "'l l", "l l")))
    growing, whole = Retokenizer(of), Retokenizer(of)
    for part in (b"w", b"e", b"'", b"l", b"l"):
        growing.append(part)
    whole.append(b"we'll")
    assert growing.tokens == whole.tokens


def test_an_added_token_that_comes_in_parts_is_found() -> None:
    whole = byte_level()
    name = "<tool call: 'f'>"
    whole["added_tokens"].append(added(whole["added_tokens"][-1]["id"] + 1, name, special=False))
    of = vocabulary(whole)
    text = Retokenizer(of)
    for byte in f"hello {name}".encode():
        text.append(bytes([byte]))
    assert text.tokens == of.encode(f"hello {name}")


def test_special_tokens_keep_what_is_around_them_apart_and_are_left_out_if_there_is_none_of_the_name() -> None:
    target = vocabulary(byte_level(specials=("<end>", "<turn>")))
    world = BYTE_LEVEL.encode(" wor") + BYTE_LEVEL.encode("ld")
    for name, between in (("<end>", [BYTE_LEVEL.special_id("<end>")]), ("<turn>", [])):
        text = Retokenizer(BYTE_LEVEL)
        follow(text, target, BYTE_LEVEL, [*target.encode(" wor"), target.special_id(name) or 0, *target.encode("ld")])
        assert text.tokens == [world[0], *between, world[1]]


def test_a_character_that_never_ends_is_left_as_bytes() -> None:
    end = BYTE_LEVEL.special_id("<end>")
    assert end is not None
    half = BYTE_LEVEL.encode("é")[:1] if len(BYTE_LEVEL.encode("é")) > 1 else [BYTE_LEVEL.token_of(b"\xc3") or 0]
    text = Retokenizer(BYTE_LEVEL)
    follow(text, BYTE_LEVEL, BYTE_LEVEL, half)
    assert (text.tokens, text.held) == ([], b"\xc3")
    follow(text, BYTE_LEVEL, BYTE_LEVEL, [end])
    assert (text.tokens, text.held) == ([*half, end], b"")


def test_tokens_that_stand_for_nothing_are_passed_over() -> None:
    assert list(runs(SENTENCEPIECE, [0, *SENTENCEPIECE.encode("a"), 99_999, *SENTENCEPIECE.encode("b")])) == [b"ab"]
