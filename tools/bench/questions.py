"""Questions in Spec-Bench's form, and a choice of them spread over its six groups."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Spec-Bench keeps MT-bench's eight categories apart in its file and counts them as one subtask.
MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
GROUPS = ("multi_turn", "translation", "summarization", "qa", "math_reasoning", "rag")
GROUP_OF = {**dict.fromkeys(MT_BENCH, "multi_turn"), **{group: group for group in GROUPS}}


class QuestionsError(Exception):
    """The file can't be used; the message says which line and why."""


@dataclass(frozen=True, slots=True)
class Question:
    """One conversation: the user's turns, each asked after the answer to the one before. The file's category is finer
    than the group."""

    question_id: str
    group: str
    turns: tuple[str, ...]
    category: str = ""


def read_questions(path: Path) -> list[Question]:
    """All questions of a file of JSON lines `{"question_id", "category", "turns": […]}`; other keys are ignored.

    Raises:
        QuestionsError: names the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionsError(f"--questions {path}: can't be read: {error}") from error
    questions: list[Question] = []
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            question = _parse(line)
            if question.question_id in line_of:
                first = line_of[question.question_id]
                raise QuestionsError(f"question_id {question.question_id} is in line {first} already; give it another")
        except QuestionsError as error:
            raise QuestionsError(f"{path}, line {number}: {error}") from None
        line_of[question.question_id] = number
        questions.append(question)
    if not questions:
        raise QuestionsError(f'{path} has no questions; each line is {{"question_id": 1, "category": …, "turns": […]}}')
    return questions


def _parse(line: str) -> Question:
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        raise QuestionsError(f"not JSON: {error.msg} at column {error.colno}") from None
    if not isinstance(record, dict):
        raise QuestionsError(f"must be a JSON object, but is a {type(record).__name__}")
    for key in ("question_id", "category", "turns"):
        if key not in record:
            raise QuestionsError(f"has no {key!r}; question_id, category and turns are needed")
    question_id, category, turns = record["question_id"], record["category"], record["turns"]
    if isinstance(question_id, bool) or not isinstance(question_id, int | str) or question_id == "":
        raise QuestionsError(f"question_id must be a number or a text, but is {question_id!r}")
    if not isinstance(category, str) or category not in GROUP_OF:
        raise QuestionsError(f"unknown category {category!r}; known are {', '.join(GROUP_OF)}")
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise QuestionsError("turns must be a list of at least one text, none of them empty")
    return Question(str(question_id), GROUP_OF[category], tuple(turns), category)


def spread(questions: Sequence[Question], limit: int | None = None) -> list[Question]:
    """At most `limit` questions, as many of each group as of the others where a group has that many.

    Those of a group are taken at equal distances, so that each of MT-bench's categories has its turn. The groups
    follow one another in rotation: what changes on the machine during a run changes for all of them.
    """
    by_group = {group: [question for question in questions if question.group == group] for group in GROUPS}
    shares = _shares({group: len(members) for group, members in by_group.items()}, limit)
    chosen = {group: _at_equal_distances(by_group[group], share) for group, share in shares.items()}
    rounds = range(max(shares.values(), default=0))
    return [chosen[group][index] for index in rounds for group in GROUPS if index < shares[group]]


def fingerprint(questions: Sequence[Question]) -> str:
    """The same for the same questions in the same order; says nothing of what they are."""
    asked = json.dumps([[question.question_id, question.category, question.turns] for question in questions])
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _shares(sizes: dict[str, int], limit: int | None) -> dict[str, int]:
    left = sum(sizes.values()) if limit is None else limit
    shares = dict.fromkeys(sizes, 0)
    while left and (open_groups := [group for group, size in sizes.items() if shares[group] < size]):
        for group in open_groups[:left]:
            shares[group] += 1
        left -= min(left, len(open_groups))
    return shares


def _at_equal_distances(members: list[Question], count: int) -> list[Question]:
    return [members[(2 * index + 1) * len(members) // (2 * count)] for index in range(count)]
