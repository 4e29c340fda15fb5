"""generate and chat: the text as it is, who proposed what, and the same without speculation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_deployment import SOURCES, TEXTS, FakeRouter, serving
from running import lines, run, run_apart

TEXT = "".join(TEXTS)
COLOURED = {"FORCE_COLOR": "1", "COLUMNS": "200", "TERM": "xterm-256color"}


@pytest.mark.parametrize("way", ["argument", "stdin", "file"])
def test_the_text_and_nothing_else(way: str, tmp_path: Path) -> None:
    router = FakeRouter()
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("Frag ä")
    arguments = {"argument": ["Frag ä"], "stdin": [], "file": ["--file", str(prompt)]}[way]
    with serving(router):
        done = run("generate", *arguments, "--router", router.address, input="Frag ä" if way == "stdin" else None)
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{TEXT}\n", "")
    (request,) = router.requests
    assert [message.content for message in request.messages.messages] == ["Frag ä"]
    assert not request.sampling.HasField("seed")
    assert not request.HasField("log_probs")


def test_options_become_the_request() -> None:
    router = FakeRouter()
    asked = ["--raw", "--max-tokens", "3", "--temperature", "0.5", "--seed", "9", "--drafter", "a", "--drafter", "b"]
    with serving(router):
        assert run("generate", "x", *asked, "--router", router.address).exit_code == 0
    (request,) = router.requests
    assert request.text == "x"
    assert (request.limits.max_tokens, request.sampling.temperature, request.sampling.seed) == (3, 0.5, 9)
    assert list(request.speculation.drafters) == ["a", "b"]


def test_json_has_tokens_with_their_sources_and_the_outcome() -> None:
    router = FakeRouter()
    with serving(router):
        done = run("generate", "x", "--json", "--router", router.address)
    (line,) = lines(done.stdout)
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["text"] == TEXT
    assert found["tokens"] == [{"id": index, "source": source or None} for index, source in enumerate(SOURCES)]
    assert (found["seed"], found["finish_reason"], found["prompt_tokens"]) == (42, "stop", 5)
    assert found["outcome"]["drafters"][0]["accepted"] == 1
    assert "comparison" not in found


def test_a_comparison_asks_again_with_the_same_seed_and_no_drafters() -> None:
    router = FakeRouter()
    with serving(router):
        done = run("generate", "x", "--compare", "--json", "--drafter", "a", "--router", router.address)
        shown = run("generate", "x", "--compare", "--router", router.address)
    found = json.loads(done.stdout)["comparison"]
    assert found["identical"] is True
    assert found["speedup"] > 0
    assert found["plain"]["text"] == TEXT
    warm, drafted, plain = router.requests[:3]
    assert (warm.limits.max_tokens, warm.speculation.off) == (1, True)
    assert (drafted.speculation.off, list(drafted.speculation.drafters)) == (False, ["a"])
    assert (plain.speculation.off, list(plain.speculation.drafters), plain.sampling.seed) == (True, [], 42)
    assert "identical without speculation" in shown.stdout


def test_another_text_without_speculation_is_a_failure() -> None:
    router = FakeRouter(plain_text="something else")
    with serving(router):
        done = run("generate", "x", "--compare", "--json", "--router", router.address)
    assert done.exit_code == 1
    assert json.loads(done.stdout)["comparison"]["identical"] is False
    assert "a bug in Paceline" in done.stderr


def test_chat_colours_what_drafters_proposed_and_keeps_the_history() -> None:
    router = FakeRouter()
    with serving(router):
        done = run_apart("chat", "--router", router.address, "--system", "S", input="one\ntwo\n\n", env=COLOURED)
    assert done.returncode == 0, done.stderr
    assert "\x1b[36m" in done.stdout
    assert "■" in done.stdout
    assert "suffix/suffix 1" in done.stdout
    first, second = router.requests
    assert first.HasField("log_probs")
    assert [(one.role, one.content) for one in second.messages.messages] == [
        ("system", "S"),
        ("user", "one"),
        ("assistant", TEXT),
        ("user", "two"),
    ]


def test_chat_without_sources_or_colours_has_neither() -> None:
    router = FakeRouter()
    with serving(router):
        plain = run("chat", "--no-sources", "--router", router.address, input="one\n")
        env = {**COLOURED, "NO_COLOR": "1"}
        uncoloured = run_apart("chat", "--router", router.address, input="one\n", env=env)
    assert TEXT in plain.stdout
    assert "■" not in plain.stdout
    assert not router.requests[0].HasField("log_probs")
    assert TEXT in uncoloured.stdout
    assert "\x1b[3" not in uncoloured.stdout


def test_a_prompt_that_is_no_text_is_refused(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt"
    prompt.write_bytes(b"ab\xff")
    done = run("generate", "--file", str(prompt))
    assert done.exit_code == 2
    assert "byte 2" in done.stderr
    assert run("generate", "--file", str(tmp_path / "none")).exit_code == 1
