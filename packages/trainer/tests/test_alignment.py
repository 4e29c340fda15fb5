"""A target's text in a student's tokens."""

from __future__ import annotations

import numpy as np
import pytest
from byte_vocabularies import TEXT, vocabulary
from hypothesis import given
from hypothesis import strategies as st

from paceline.trainer.learning.alignment import NONE, align, align_cut, map_tokens

LARGE, SMALL = vocabulary(400), vocabulary(290, (TEXT[::-1], TEXT))
OTHER = vocabulary(300, specials=("<bos>",))


def test_tokens_map_by_their_bytes_and_special_ones_by_their_names() -> None:
    found = map_tokens(LARGE, SMALL, LARGE.size + 5)
    assert found[LARGE.size :].tolist() == [NONE] * 5
    for token, same in enumerate(found.tolist()):
        if same != NONE and LARGE.bytes_of(token) is not None:
            assert SMALL.bytes_of(same) == LARGE.bytes_of(token)
        elif LARGE.bytes_of(token) is not None:
            assert SMALL.token_of(LARGE.bytes_of(token) or b"") is None
    eos = LARGE.special_id("<eos>")
    assert eos is not None
    assert found[eos] == SMALL.special_id("<eos>")
    assert map_tokens(LARGE, OTHER, LARGE.size)[eos] == NONE


def test_a_small_case_by_hand() -> None:
    word = LARGE.encode(" capital")
    assert [LARGE.bytes_of(token) for token in word] == [b" capital"]
    inner = SMALL.encode(" capital")
    assert len(inner) > 1
    found = align(LARGE, SMALL, LARGE.encode("The"), [*word, *LARGE.encode(" of")])
    behind = SMALL.encode(" of")
    assert found.ids.tolist() == [*SMALL.encode("The"), *inner, *behind]
    assert found.ids[found.first :].tolist() == [*inner, *behind]
    assert found.source.tolist()[: len(inner)] == [0] + [NONE] * (len(inner) - 1)
    assert not found.spells[: len(inner)].any()


@given(st.text(max_size=40), st.integers(0, 40), st.data())
def test_rows_are_the_text_and_begin_where_they_say(text: str, cut: int, data: st.DataObject) -> None:
    tokens = LARGE.encode(text)
    cut = min(cut, len(tokens))
    specials = data.draw(st.lists(st.integers(0, len(tokens)), max_size=2))
    eos = LARGE.special_id("<eos>")
    assert eos is not None
    for place in sorted(specials, reverse=True):
        tokens.insert(place, eos)
    found = align(LARGE, SMALL, tokens[:cut], tokens[cut:])
    assert len(found.ids) == found.first + len(found)
    meanings = [SMALL.bytes_of(token) for token in found.ids.tolist()]
    if not specials:
        whole = b"".join(LARGE.bytes_of(token) or b"" for token in tokens)
        assert b"".join(part or b"" for part in meanings) == whole
    sources = [index for index in found.source.tolist() if index != NONE]
    assert sources == sorted(set(sources))
    for row, index in enumerate(found.source.tolist()):
        if index == NONE:
            assert not found.spells[row]
            continue
        target = LARGE.bytes_of(tokens[cut + index])
        student = meanings[found.first + row]
        if found.spells[row]:
            assert target == student
        elif target is not None and student is not None:
            assert target.startswith(student) or student.startswith(target)


def test_the_same_vocabulary_is_aligned_row_by_row() -> None:
    tokens = LARGE.encode(TEXT)
    found = align(LARGE, LARGE, tokens[:7], tokens[7:])
    assert (found.ids.tolist(), found.first) == (tokens, 7)
    assert found.source.tolist() == list(range(len(tokens) - 7))
    assert found.spells.all()


def test_a_text_cut_within_a_character_is_told_byte_by_byte_there() -> None:
    tokens = SMALL.encode("a東京 b")
    pieces = [SMALL.bytes_of(token) or b"" for token in tokens]
    inside = next(index for index, piece in enumerate(pieces) if piece[0] & 0xC0 == 0x80)
    found = align(SMALL, LARGE, [], tokens[inside:])
    assert b"".join(LARGE.bytes_of(token) or b"" for token in found.ids.tolist()) == b"".join(pieces[inside:])
    assert tokens[inside:][found.source.tolist()[-1]] == tokens[-1]
    assert found.stops.tolist()[-1] == len(tokens) - inside - 1


@pytest.mark.parametrize("context", [0, 2])
def test_a_cut_vocabulary_keeps_places_and_has_one_id_for_the_rest(context: int) -> None:
    cut = np.array([NONE, 0, NONE, 1])
    tokens = [3, 2, 1, 0, 3]
    found = align_cut(cut, 2, tokens[:context], tokens[context:])
    assert found.ids.tolist() == [1, 2, 0, 2, 1]
    assert (found.first, found.source.tolist()) == (context, list(range(5 - context)))
    assert found.spells.all()
