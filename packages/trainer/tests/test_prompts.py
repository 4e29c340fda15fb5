"""Prompts from files: forms, bounds, and a held-out split that nothing but the id changes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.trainer.data import prompts as prompts_module
from paceline.trainer.data.prompts import Message, Prompt, is_held_out, mixed, read_prompts, split
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import StartupError

NAMES = st.lists(st.text(max_size=20), unique=True, max_size=50)


def write(path: Path, *lines: object) -> Path:
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def named(*names: str) -> list[Prompt]:
    return [Prompt(name, "", (Message("user", "x"),)) for name in names]


def test_all_forms_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "p.jsonl",
        {"id": 17, "source": "gsm8k", "prompt": "How many?", "answer": "ignored"},
        "",
        {"id": "a", "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]},
        {"prompt": "no id"},
        {"source": None, "prompt": "no id"},
    )
    first, second, third = read_prompts(path)
    assert first == Prompt("17", "gsm8k", (Message("user", "How many?"),))
    assert second == Prompt("a", "", (Message("system", "Be brief."), Message("user", "Hi")))
    assert len(third.id) == 32
    assert third.messages == (Message("user", "no id"),)


def test_what_follows_the_last_user_message_is_left_out(tmp_path: Path) -> None:
    turns = [("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("tool", "5")]
    conversation = {"messages": [{"role": role, "content": content} for role, content in turns]}
    only = read_prompts(write(tmp_path / "p", conversation))[0]
    assert [message.content for message in only.messages] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("{", "JSON"),
        ("[" * 100_000, "JSON"),
        ("[]", "line"),
        ({"id": 1}, "prompt"),
        ({"prompt": "x", "messages": []}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": " "}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"id": True, "prompt": "x"}, "id"),
        ({"id": "", "prompt": "x"}, "id"),
        ({"id": "x" * 201, "prompt": "x"}, "id"),
        ({"id": 1.5, "prompt": "x"}, "id"),
        ({"source": ["x"], "prompt": "x"}, "source"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 257}, "messages"),
    ],
)
def test_a_bad_line_is_refused_by_number_and_field(tmp_path: Path, line: object, field: str) -> None:
    with pytest.raises(PacelineError) as caught:
        read_prompts(write(tmp_path / "p.jsonl", {"prompt": "fine"}, line))
    assert (caught.value.reason, caught.value.field) == (Reason.MALFORMED, field)
    assert "p.jsonl line 2" in caught.value.message


def test_two_lines_with_one_id_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PacelineError, match="line 2: id is '1'"):
        read_prompts(write(tmp_path / "p", {"id": 1, "prompt": "x"}, {"id": "1", "prompt": "y"}))


def test_long_lines_and_long_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PacelineError, match="at most 2"):
        read_prompts(write(tmp_path / "many", *({"id": n, "prompt": "x"} for n in range(3))), limit=2)
    monkeypatch.setattr(prompts_module, "MAX_LINE_BYTES", 50)
    with pytest.raises(PacelineError, match="line 2 is more than 50 bytes"):
        read_prompts(write(tmp_path / "long", {"prompt": "x"}, {"prompt": "x" * 50}))


def test_sources_are_chosen_by_name_or_pattern(tmp_path: Path) -> None:
    lines = [{"id": n, "source": source, "prompt": "x"} for n, source in enumerate(("t0/a", "t0/b", "gsm8k", ""))]
    path = write(tmp_path / "p", *lines)
    chosen = {sources: [prompt.id for prompt in read_prompts(path, sources)] for sources in ((), ("t0/*",), ("gsm8k",))}
    assert chosen == {(): ["0", "1", "2", "3"], ("t0/*",): ["0", "1"], ("gsm8k",): ["2"]}
    with pytest.raises(StartupError, match="gsm8k, t0/a, t0/b"):
        read_prompts(path, ["t1"])


def test_files_that_arent_there_or_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="No such file"):
        read_prompts(tmp_path / "nothing")
    with pytest.raises(StartupError, match="none at all"):
        read_prompts(write(tmp_path / "empty"))


@given(NAMES, st.floats(0, 1, exclude_max=True))
def test_a_split_is_a_partition_that_each_id_decides_alone(names: list[str], share: float) -> None:
    train, held_out = split(named(*names), share)
    assert sorted(prompt.id for prompt in train + held_out) == sorted(names)
    assert all(is_held_out(prompt.id, share) for prompt in held_out)
    assert not any(is_held_out(prompt.id, share) for prompt in train)


@given(st.text(max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_whatever_a_smaller_one_does(name: str, one: float, other: float) -> None:
    assert is_held_out(name, max(one, other)) or not is_held_out(name, min(one, other))


def test_the_share_is_that_of_the_prompts() -> None:
    held_out = sum(is_held_out(str(number), 0.1) for number in range(10_000))
    assert 900 < held_out < 1100
    with pytest.raises(PacelineError, match="held_out"):
        split([], 1.0)


@given(NAMES, st.randoms())
def test_the_mixed_order_is_that_of_the_ids(names: list[str], chance: object) -> None:
    shuffled = list(names)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert mixed(named(*names)) == mixed(named(*shuffled))
    assert sorted(prompt.id for prompt in mixed(named(*names))) == sorted(names)
