"""Reading questions, and spreading a choice of them over the groups."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from questions import GROUP_OF, GROUPS, MT_BENCH, Question, QuestionsError, read_questions, spread


def line(question_id: object = 1, category: object = "qa", turns: object = ("Why?",)) -> str:
    return json.dumps({"question_id": question_id, "category": category, "turns": turns})


def written(folder: Path, *lines: str) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def many(**sizes: int) -> list[Question]:
    return [Question(f"{group}-{index}", group, ("Why?",)) for group in GROUPS for index in range(sizes.get(group, 0))]


def test_every_category_of_spec_bench_has_a_group(tmp_path: Path) -> None:
    path = written(tmp_path, *(line(number, category) for number, category in enumerate(GROUP_OF)))
    groups = [question.group for question in read_questions(path)]
    assert groups.count("multi_turn") == len(MT_BENCH) + 1
    assert set(groups) == set(GROUPS)


def test_turns_keep_their_order_and_other_keys_are_ignored(tmp_path: Path) -> None:
    record = {"question_id": 7, "category": "stem", "turns": ["First.", "Second."], "reference": ["a", "b"]}
    assert read_questions(written(tmp_path, "", json.dumps(record), "")) == [
        Question("7", "multi_turn", ("First.", "Second."), "stem")
    ]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("{", "not JSON"),
        ("[1]", "must be a JSON object"),
        ('{"question_id": 2, "category": "qa"}', "has no 'turns'"),
        (line(2, "cooking"), "unknown category 'cooking'; known are writing"),
        (line(2, None), "unknown category None"),
        (line(2, turns=[]), "turns must be a list"),
        (line(2, turns="Why?"), "turns must be a list"),
        (line(2, turns=["Why?", ""]), "turns must be a list"),
        (line(2, turns=[1]), "turns must be a list"),
        (line(None), "question_id must be"),
        (line(True), "question_id must be"),
        (line(1), "question_id 1 is in line 1 already"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str, words: str) -> None:
    path = written(tmp_path, line(1), "", bad)
    with pytest.raises(QuestionsError) as caught:
        read_questions(path)
    assert f"{path}, line 3: " in str(caught.value)
    assert words in str(caught.value)


def test_a_file_without_questions_or_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(QuestionsError, match="has no questions"):
        read_questions(written(tmp_path, ""))
    with pytest.raises(QuestionsError, match="can't be read"):
        read_questions(tmp_path / "nowhere.jsonl")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QuestionsError, match="can't be read"):
        read_questions(binary)


@pytest.mark.parametrize("limit", [1, 5, 6, 18, 20, 60])
def test_groups_get_equal_shares(limit: int) -> None:
    chosen = spread(many(**dict.fromkeys(GROUPS, 10)), limit)
    assert len(chosen) == len(set(chosen)) == limit
    shares = Counter(question.group for question in chosen)
    assert max(shares.values()) - min(shares[group] for group in GROUPS) <= 1


def test_what_a_small_group_lacks_the_others_give() -> None:
    chosen = spread(many(qa=2, rag=10, translation=10), 12)
    assert Counter(question.group for question in chosen) == {"qa": 2, "rag": 5, "translation": 5}


def test_the_choice_reaches_over_a_whole_group() -> None:
    chosen = spread(many(qa=40), 4)
    assert [question.question_id for question in chosen] == ["qa-5", "qa-15", "qa-25", "qa-35"]


def test_groups_follow_one_another_in_rotation() -> None:
    assert [question.group for question in spread(many(qa=2, rag=3, translation=2))] == (
        ["translation", "qa", "rag", "translation", "qa", "rag", "rag"]
    )


def test_without_a_limit_or_with_a_great_one_all_are_taken() -> None:
    questions = many(qa=2, rag=3)
    assert set(spread(questions)) == set(spread(questions, 100)) == set(questions)
