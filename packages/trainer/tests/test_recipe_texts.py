"""Texts of a target in a drafter's own vocabulary, and in a cut one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from paceline.trainer.data.rows import Answer, Reading
from paceline.trainer.recipes.alignment import Aligner
from paceline.trainer.recipes.cut_vocabulary import Cutter
from paceline.trainer.recipes.lm_text import LmText, normalised, tail
from paceline.trainer.recipes.own_vocabulary import train_vocabulary
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

# The target: single letters, "ab", "cd", "abcd", a special token that the drafter has and one that it hasn't.
WORDS = (b"a", b"b", b"c", b"d", b"ab", b"cd", b"abcd", None, None)
A, B, C, D, AB, CD, ABCD, END, OTHER = range(9)
NAMES = {END: "<end>", OTHER: "<other>"}


class Target:
    """A target's vocabulary, as far as texts need it."""

    size = len(WORDS)

    def bytes_of(self, token: int) -> bytes | None:
        return WORDS[token]

    def token_of(self, data: bytes) -> int | None:
        return WORDS.index(data) if data in WORDS else None

    def special(self, token: int) -> str | None:
        return NAMES.get(token)


def aligner(own: TokenizerVocabulary) -> Aligner:
    return Aligner(Target(), len(WORDS), own)  # type: ignore[arg-type]


def own_vocabulary(merges: list[tuple[str, str]]) -> TokenizerVocabulary:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<end>": 0, **{letter: 1 + place for place, letter in enumerate(letters)}}
    for one, other in merges:
        words[one + other] = len(words)
    tokenizer = Tokenizer(models.BPE(words, merges))
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TokenizerVocabulary(tokenizer.to_str())


def reading(prompt: list[int], answer: list[int], top_ids: list[list[int]], probs: list[list[float]]) -> Reading:
    return Reading(
        Answer("x", "", np.array(prompt, np.int32), np.array(answer, np.int32), "stop"),
        np.array(top_ids, np.int32),
        np.log(np.array(probs)).astype(np.float16),
        0,
        np.zeros((0, 0, 0), np.uint16),
    )


def test_direct_tokens_runs_and_tokens_within_tokens() -> None:
    """The drafter has "ab" but neither "cd" nor "abcd". Target: prompt d, answer ab | cd | <end>; the drafter writes

    row        0    1     2    3
    token      d    ab    c    d    <end>
                    said  -run--    said
    """
    own = own_vocabulary([("a", "b")])
    ab, c, d, end = (own.token_of(data) or 0 for data in (b"ab", b"c", b"d", b""))
    end = own.special_id("<end>")
    text = aligner(own).text(
        reading([D], [AB, CD, END], [[AB, ABCD], [A, CD], [END, OTHER]], [[0.5, 0.25], [0.5, 0.125], [0.5, 0.25]])
    )
    assert text.ids.tolist() == [d, ab, c, d, end]
    assert text.first_answer == 1
    assert list(zip(text.said_token, text.said_row, text.said_id, strict=True)) == [
        (0, 0, ab),
        (1, 1, c),
        (1, 2, d),
        (2, 3, end),
    ]
    assert text.top_rows.tolist() == [0, 1, 3]
    assert text.top_ids.tolist() == [[ab, -1], [own.token_of(b"a"), -1], [end, -1]]
    assert np.exp(text.top_log_probs) == pytest.approx(np.array([[0.5, 0.0]] * 3), abs=1e-3)
    assert text.run_rows.tolist() == [1, 2]
    assert np.exp(text.run_log_probs).tolist() == pytest.approx([0.125, 0.125], abs=1e-3)


def test_a_token_that_begins_within_the_drafters_cannot_be_said() -> None:
    """The drafter writes "abcd" as one token, the target as ab | cd: it may say ab there, and never cd."""
    own = own_vocabulary([("a", "b"), ("c", "d"), ("ab", "cd")])
    text = aligner(own).text(reading([END], [AB, CD], [[AB], [CD]], [[0.5], [0.5]]))
    assert text.ids.tolist() == [0, own.token_of(b"abcd")]
    assert (text.said_token.tolist(), text.said_row.tolist(), text.said_id.tolist()) == (
        [0],
        [0],
        [own.token_of(b"ab")],
    )
    assert text.top_rows.tolist() == [0]


def test_a_special_token_that_the_drafter_has_not_is_left_out() -> None:
    own = own_vocabulary([])
    a, b = own.token_of(b"a"), own.token_of(b"b")
    text = aligner(own).text(reading([A, OTHER], [B, OTHER], [[B], [OTHER]], [[0.5], [0.5]]))
    assert text.ids.tolist() == [a, b]
    assert text.said_token.tolist() == [0]
    # Nothing is seen before the first token, and what is left out is not asked for.
    text = aligner(own).text(reading([OTHER], [A, OTHER, B], [[A], [OTHER], [B]], [[0.5]] * 3))
    assert text.ids.tolist() == [a, b]
    assert (text.said_token.tolist(), text.said_row.tolist()) == ([2], [0])
    assert text.top_rows.tolist() == [0]


@given(st.lists(st.integers(A, END), min_size=2, max_size=30), st.integers(0, 3))
@settings(max_examples=100, deadline=None)
def test_what_is_said_spells_the_targets_tokens(tokens: list[int], num_merges: int) -> None:
    own = own_vocabulary([("a", "b"), ("c", "d"), ("ab", "cd")][:num_merges])
    answer = tokens[1:]
    text = aligner(own).text(reading(tokens[:1], answer, [[each] for each in answer], [[0.5]] * len(answer)))
    spelled = b"".join(own.bytes_of(token) or b"<end>" for token in text.ids.tolist())
    assert spelled == b"".join(WORDS[token] or b"<end>" for token in tokens)
    for index, token in enumerate(answer):
        said = [own.bytes_of(each) or b"<end>" for each in text.said_id[text.said_token == index].tolist()]
        assert not said or b"".join(said) == (WORDS[token] or b"<end>")
        if num_merges == 0:
            assert said


def test_training_a_vocabulary_is_repeatable_and_keeps_digits_apart() -> None:
    texts = ["the price is 1000 dollars and the cost is 1000 more"] * 20
    one, other = (train_vocabulary(texts, 300, ["<end>"]) for _ in range(2))
    assert one == other
    vocabulary = TokenizerVocabulary(one)
    assert vocabulary.special_id("<end>") == 0
    assert vocabulary.size <= 300
    assert len(vocabulary.encode("1000")) == 4
    assert len(vocabulary.encode(" the")) == 1


@given(st.text(max_size=60))
@settings(max_examples=60, deadline=None)
def test_a_vocabulary_of_its_own_says_any_text(text: str) -> None:
    vocabulary = TokenizerVocabulary(train_vocabulary([text, "some more text, 2024"], 300, ["<end>"]))
    assert b"".join(vocabulary.bytes_of(token) or b"?" for token in vocabulary.encode(text)) == text.encode()


def test_a_cut_text_is_the_targets_token_for_token() -> None:
    text = Cutter(np.array([4, 2], np.uint32), 6).text(
        reading([2, 3], [4, 5], [[4, 1], [5, 2]], [[0.5, 0.25], [0.5, 0.25]])
    )
    assert text.ids.tolist() == [1, 2, 0, 2]
    assert (text.said_token.tolist(), text.said_row.tolist(), text.said_id.tolist()) == ([0], [1], [0])
    assert text.top_rows.tolist() == [1, 2]
    assert text.top_ids.tolist() == [[0, -1], [-1, 1]]
    assert np.exp(text.top_log_probs) == pytest.approx(np.array([[0.5, 0.0], [0.0, 0.25]]), abs=1e-3)


def test_the_tail_of_a_text_loses_rows_at_its_beginning() -> None:
    own = own_vocabulary([])
    whole = aligner(own).text(reading([A], [B, CD, A], [[B], [CD], [A]], [[0.5]] * 3))
    assert whole.ids.tolist() == [own.token_of(data) for data in (b"a", b"b", b"c", b"d", b"a")]
    assert tail(whole, 5) is whole
    cut = tail(whole, 3)
    assert cut.ids.tolist() == whole.ids[2:].tolist()
    # Row 1 said c, the beginning of the run; with it goes the whole run, d included.
    assert (cut.said_token.tolist(), cut.said_row.tolist(), cut.said_id.tolist()) == ([2], [1], [own.token_of(b"a")])
    assert cut.num_said == 3
    assert cut.top_rows.tolist() == [1]
    assert cut.run_rows.tolist() == [0]
    assert_rows_exist(cut)


def assert_rows_exist(text: LmText) -> None:
    for rows in (text.said_row, text.top_rows, text.run_rows):
        assert all(0 <= row < len(text) - 1 for row in rows.tolist())


def test_probabilities_that_add_up_to_more_than_1_are_scaled() -> None:
    log_probs = np.log(np.array([[0.6, 0.401], [0.3, 0.2]], np.float32))
    found = np.exp(normalised(log_probs))
    assert found.sum(axis=-1).tolist() == pytest.approx([1.0, 0.5])
