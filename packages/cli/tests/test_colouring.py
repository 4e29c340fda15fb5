"""Which characters came from whom, however tokens cut them."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from paceline.cli.colouring import Colouring, Palette, shares

TOKENS = st.lists(st.tuples(st.binary(max_size=5), st.sampled_from(["", "a/a", "b/b"])), max_size=20)


@given(st.text(max_size=30), st.lists(st.integers(0, 60), max_size=8), st.data())
def test_a_character_is_its_first_bytes(text: str, cuts: list[int], data: st.DataObject) -> None:
    content = text.encode(errors="surrogatepass")
    if content.decode(errors="ignore") != text:
        return
    edges = sorted({min(cut, len(content)) for cut in cuts} | {0, len(content)})
    pieces = [content[begin:end] for begin, end in pairwise(edges)]
    sources = [data.draw(st.sampled_from(["", "a/a", "b/b"])) for _ in pieces]
    owners = [source for piece, source in zip(pieces, sources, strict=True) for _ in piece]
    stretches = Colouring().feed(pieces, sources, text)
    coloured = [(character, source) for part, source in stretches for character in part]
    at = 0
    expected = []
    for character in text:
        expected.append((character, owners[at]))
        at += len(character.encode())
    assert coloured == expected


@given(TOKENS, st.text(max_size=30), st.text(max_size=30))
def test_the_text_is_never_changed_whatever_the_tokens_say(
    tokens: list[tuple[bytes, str]], first: str, second: str
) -> None:
    colouring = Colouring()
    pieces, sources = [piece for piece, _ in tokens], [source for _, source in tokens]
    assert "".join(part for part, _ in colouring.feed(pieces, sources, first)) == first
    assert "".join(part for part, _ in colouring.feed([], [], second)) == second


def test_a_character_that_waits_for_its_end_keeps_its_beginnings_source() -> None:
    colouring = Colouring()
    assert colouring.feed([b"a\xc3"], ["x"], "a") == [("a", "x")]
    assert colouring.feed([b"\xa4b"], [""], "äb") == [("ä", "x"), ("b", "")]


def test_colours_hold_still_and_the_target_has_none() -> None:
    palette = Palette()
    first = palette.style("a")
    assert palette.style("b") != first
    assert (palette.style("a"), palette.style("")) == (first, "")
    assert shares(["", "a", "a", ""]) == {"": 2, "a": 2}
