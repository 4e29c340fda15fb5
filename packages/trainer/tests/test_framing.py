"""Prompts put together from texts and requests about them."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.trainer.data.framing import PLACE, Framing, framed, passage_of
from paceline.trainer.data.prompts import read_prompts
from paceline.trainer.recipes.framing import run
from paceline.trainer.recipes.settings import FrameSettings
from paceline.wire.settings import StartupError

TEXTS = ["A first text of some length.", "short", "Another one.\n\nWhich has a second, longer paragraph. It ends here."]
FRAMES = ("Summarize: {text}", "{text}\n\n{text}\n\nWhat do both say?")


def contents(texts: list[str], framing: Framing, count: int) -> list[str]:
    return [prompt.messages[0].content for prompt in itertools.islice(framed(texts, framing), count)]


def test_frames_take_turns_and_each_place_a_passage_of_its_own() -> None:
    framing = Framing(frames=FRAMES, min_characters=10, seed=3)
    passages = {TEXTS[0], "Which has a second, longer paragraph. It ends here."}
    found = contents(TEXTS, framing, 4)
    assert [text.startswith("Summarize: ") for text in found] == [True, False, True, False]
    assert all(text.removeprefix("Summarize: ") in passages for text in found[::2])
    used = [part for text in found for part in text.removeprefix("Summarize: ").split("\n\n") if part in passages]
    assert len(used) == 6
    assert all(set(used[place : place + 2]) == passages for place in (0, 2, 4)), "all once before any twice"
    assert contents(TEXTS, framing, 4) == found
    assert contents(TEXTS, Framing(frames=FRAMES, min_characters=10, seed=4), 40) != contents(TEXTS, framing, 40)


@given(st.text(alphabet="ab. \n", max_size=80), st.integers(1, 40), st.integers(1, 40))
def test_a_passage_is_part_of_a_paragraph(text: str, least: int, most: int) -> None:
    found = passage_of(text, Framing(frames=FRAMES, min_characters=least, max_characters=most))
    assert not found or least <= len(found) <= most
    assert found in " ".join(text.split())


def test_a_long_passage_ends_with_a_sentence() -> None:
    framing = Framing(frames=FRAMES, min_characters=1, max_characters=30)
    assert passage_of("One sentence. Another sentence. A third one.", framing) == "One sentence."


def test_texts_that_are_all_too_short_are_refused() -> None:
    with pytest.raises(ValueError, match="100 characters"):
        next(framed(TEXTS, Framing(frames=FRAMES, min_characters=100)))


def settings(folder: Path, **options: object) -> FrameSettings:
    texts, frames = folder / "texts.jsonl", folder / "frames.txt"
    lines = [{"prompt": text, "source": "even" if index % 2 else "odd"} for index, text in enumerate(TEXTS)]
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    frames.write_text("\n".join(frame.replace("\n", "\\n") for frame in FRAMES))
    asked = {"texts": texts, "frames": frames, "out": folder / "out.jsonl", "count": 5, "min_characters": 10}
    return FrameSettings(_cli_parse_args=False, **{**asked, **options})  # type: ignore[call-arg,arg-type]


def test_a_file_is_made_that_bootstrap_takes(tmp_path: Path) -> None:
    run(settings(tmp_path))
    made = read_prompts(tmp_path / "out.jsonl")
    assert [prompt.id for prompt in made] == [f"framed-0-{number:06}" for number in range(5)]
    assert "\n\nWhat do both say?" in made[1].messages[0].content
    again = (tmp_path / "out.jsonl").read_bytes()
    run(settings(tmp_path))
    assert (tmp_path / "out.jsonl").read_bytes() == again


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"min_characters": 1000}, "--texts .*1000 characters or more; lower --min-characters"),
        ({"sources": "none"}, "--texts .*no prompts of these sources"),
        ({"texts": Path("missing")}, "--texts missing: No such file"),
        ({"frames": Path("missing")}, "--frames missing: No such file"),
    ],
)
def test_what_does_not_suit_is_said(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(StartupError, match=message):
        run(settings(tmp_path, **change))
    assert not (tmp_path / "out.jsonl").exists()


def test_a_frame_needs_a_place(tmp_path: Path) -> None:
    asked = settings(tmp_path)
    asked.frames.write_text(f"Summarize: {PLACE}\nSummarize that\n")
    with pytest.raises(StartupError, match=r"request 2 has no \{text\}"):
        run(asked)
