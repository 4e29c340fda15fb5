from __future__ import annotations

import json
from importlib import resources

from hypothesis import assume, given
from hypothesis import strategies as st

from paceline.wire import digest

VECTORS = json.loads((resources.files("paceline.wire") / "vectors" / "digest.json").read_text())
TOKENS = st.lists(st.integers(0, 2**20), max_size=40)


def test_digests_are_those_of_the_contract() -> None:
    assert VECTORS
    for row in VECTORS:
        assert f"{digest.digest_of(row['tokens']):016x}" == row["digest"]


@given(TOKENS, TOKENS)
def test_a_digest_grows_with_its_sequence(first: list[int], second: list[int]) -> None:
    assert digest.extend(digest.digest_of(first), second) == digest.digest_of(first + second)


@given(TOKENS, TOKENS)
def test_other_sequences_have_other_digests(first: list[int], second: list[int]) -> None:
    assume(first != second)
    assert digest.digest_of(first) != digest.digest_of(second)
