"""How mixes are written: what is meant comes out, and what can't be meant is refused with a word on why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mixes import MAX_MIXES, MAX_PROCESSES, MAX_TEXT, RESERVED, DrafterProcess, Mix, MixError, parse_mixes


def test_one_process_merges_and_several_work_side_by_side() -> None:
    assert parse_mixes(["suffix; suffix + recycling;suffix & recycling", "recycling"]) == [
        Mix("suffix", (DrafterProcess("suffix", ("suffix",)),)),
        Mix("suffix + recycling", (DrafterProcess("suffix+recycling", ("suffix", "recycling")),)),
        Mix(
            "suffix & recycling",
            (DrafterProcess("suffix", ("suffix",)), DrafterProcess("recycling", ("recycling",))),
        ),
        Mix("recycling", (DrafterProcess("recycling", ("recycling",)),)),
    ]


def test_options_become_flags() -> None:
    text = "small = suffix & causal_lm(model=some/dir, tree = opt_tree, stopping=svip:0.4, tree_width=8, no-ahead)"
    (mix,) = parse_mixes([text])
    assert mix.name == "small"
    assert mix.drafters[1].arguments == [
        *("--name", "causal_lm", "--strategies", "causal_lm"),
        *("--model=some/dir", "--tree=opt_tree", "--stopping=svip:0.4", "--tree-width=8", "--no-ahead"),
    ]
    assert mix.drafters[0].arguments == ["--name", "suffix", "--strategies", "suffix"]


def test_processes_of_one_mix_have_names_of_their_own() -> None:
    (mix,) = parse_mixes(["causal_lm(model=a) & causal_lm(model=b) & suffix & causal_lm(model=c)"])
    assert [drafter.name for drafter in mix.drafters] == ["causal_lm", "causal_lm-2", "suffix", "causal_lm-3"]


values = st.text(
    st.characters(codec="ascii", exclude_categories=["Cc"], exclude_characters="'"), min_size=1, max_size=30
)


@given(st.lists(values.filter(str.strip), min_size=1, max_size=4))
def test_a_quoted_value_may_hold_any_sign(texts: list[str]) -> None:
    options = ", ".join(f"k{number}='{text}'" for number, text in enumerate(texts))
    (mix,) = parse_mixes([f"a = suffix({options}) & recycling"])
    assert [value for _key, value in mix.drafters[0].options] == texts
    assert len(mix.drafters) == 2


@given(st.text(max_size=60))
def test_whatever_is_written_is_understood_or_refused(text: str) -> None:
    try:
        mixes = parse_mixes([text])
    except MixError:
        return
    for mix in mixes:
        assert mix.name
        names = [drafter.name for drafter in mix.drafters]
        assert len(set(names)) == len(names) > 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names 0 mixes"),
        (" ; ;", "names 0 mixes"),
        ("suffix,recycling", "'suffix,recycling' is no strategy's name; a process is written"),
        ("suffix &", "'' is no strategy's name"),
        ("suffix + suffix", "names a strategy twice"),
        ("suffix; suffix", "has two mixes 'suffix'; call one of them something else"),
        ("a = suffix; a = recycling", "has two mixes 'a'"),
        (" = suffix", "the name before '='"),
        ("suffix(", "a bracket is opened and not closed"),
        ("suffix)", "brackets must come in pairs"),
        ("suffix(a=(b))", "not within one another"),
        ("suffix(a='b)", "a quote is opened and not closed"),
        ("suffix(a=b) recycling", "nothing may follow the ')'"),
        ("suffix(a=)", "option 'a' has no value"),
        ("suffix(=b)", "must be written 'key=value'"),
        ("suffix(A=b)", "must be written 'key=value'"),
        ("suffix(a=b, a=c)", "gives an option twice"),
        (f"suffix{' ' * MAX_TEXT}", f"{MAX_TEXT} are the limit"),
        (" & ".join(["suffix"] * (MAX_PROCESSES + 1)), f"{MAX_PROCESSES} are the limit"),
        (";".join(f"m{number} = suffix" for number in range(MAX_MIXES + 1)), f"1 to {MAX_MIXES}"),
        *((f"suffix({key}=x)", f"option {key!r} can't be given here") for key in RESERVED),
    ],
)
def test_what_is_wrong_is_said(text: str, words: str) -> None:
    with pytest.raises(MixError) as caught:
        parse_mixes([text])
    assert words in str(caught.value)
