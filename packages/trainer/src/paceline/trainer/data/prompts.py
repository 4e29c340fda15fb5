"""Prompts from a JSONL file, within bounds; which of them are held out; in which order they are asked.

A line is one of

    {"id": 17, "source": "gsm8k", "prompt": "How many …?"}
    {"id": "a", "messages": [{"role": "system", "content": "…"}, {"role": "user", "content": "…"}]}

where `id` and `source` may be missing. Of a conversation what follows the last user's message is left out: that is what
the target is asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.settings import StartupError

MAX_LINE_BYTES = 1 << 20
MAX_PROMPTS = 1_000_000
MAX_MESSAGES = 256
MAX_NAME = 200  # characters of an id, a source or a role
_FIELDS = {"id", "source", "prompt", "messages"}


@dataclass(frozen=True, slots=True)
class Message:
    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the target is asked.

    Attributes:
        id: unique in its file; one without is named by what it asks.
        source: where it comes from; may be empty.
        messages: a conversation that ends with the user's.
    """

    id: str
    source: str
    messages: tuple[Message, ...]


def read_prompts(
    path: Path, sources: Sequence[str] = (), limit: int = MAX_PROMPTS, option: str = "--prompts"
) -> list[Prompt]:
    """The prompts of a file, in its order; one that asks the same as another and has no id is there once.

    Args:
        path: of a JSONL file.
        sources: only from these, each a name or a pattern with * as in "t0/*"; none takes all.
        limit: most prompts of the file.
        option: that named the file, for what is said of it.

    Raises:
        StartupError: the file can't be read or has nothing of these sources.
        PacelineError: MALFORMED or OUT_OF_RANGE, naming line and field.
    """
    found: dict[str, Prompt] = {}
    try:
        for number, line in _lines(path):
            prompt, named = _parse(f"{path.name} line {number}", line)
            if named and prompt.id in found:
                raise _malformed(f"{path.name} line {number}", "id", f"is {prompt.id!r}, as in an earlier line")
            found.setdefault(prompt.id, prompt)
            if len(found) > limit:
                raise out_of_range(f"{path.name}: prompts", f"more than {limit}", f"at most {limit}; cut the file")
    except OSError as error:
        raise StartupError(f"{option} {path}: {error.strerror}") from error
    chosen = [prompt for prompt in found.values() if from_sources(prompt, sources)]
    if not chosen:
        known = ", ".join(sorted({prompt.source for prompt in found.values()})[:20])
        raise StartupError(f"{option} {path}: no prompts of these sources; it has {known or 'none at all'}")
    return chosen


def prompt_line(prompt: Prompt) -> bytes:
    """A prompt as `read_prompts` takes it."""
    messages = [asdict(message) for message in prompt.messages]
    return json.dumps({"id": prompt.id, "source": prompt.source, "messages": messages}).encode() + b"\n"


def from_sources(prompt: Prompt, sources: Sequence[str]) -> bool:
    """Whether it comes from one of these; no sources are all."""
    return not sources or any(fnmatchcase(prompt.source, source) for source in sources)


def is_held_out(prompt_id: str, share: float) -> bool:
    """Whether a prompt is kept from training, so that a drafter can be measured on it.

    A function of the id alone: other prompts in the file, their order and the sources chosen change nothing, and what
    is held out with some share is so with every larger one.
    """
    return _fraction("held out", prompt_id) < share


def split(prompts: Iterable[Prompt], share: float) -> tuple[list[Prompt], list[Prompt]]:
    """To train on, and held out. Raises OUT_OF_RANGE: the share isn't in [0, 1)."""
    if not 0.0 <= share < 1.0:
        raise out_of_range("held_out", share, "in [0, 1)")
    train: list[Prompt] = []
    held_out: list[Prompt] = []
    for prompt in prompts:
        (held_out if is_held_out(prompt.id, share) else train).append(prompt)
    return train, held_out


def mixed(prompts: Iterable[Prompt]) -> list[Prompt]:
    """In an order of chance that only the ids determine: files are often sorted by source, and shards shouldn't be."""
    return sorted(prompts, key=lambda prompt: (_fraction("order", prompt.id), prompt.id))


def _fraction(purpose: str, prompt_id: str) -> float:
    """In [0, 1), evenly."""
    digest = hashlib.sha256(f"{purpose}\0{prompt_id}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2.0**48


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise out_of_range(
                    f"{path.name} line {number}", f"more than {MAX_LINE_BYTES} bytes", f"at most {MAX_LINE_BYTES} bytes"
                )
            if line.strip():
                yield number, line


def _parse(where: str, line: bytes) -> tuple[Prompt, bool]:
    """A prompt, and whether the line names it."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _malformed(where, "JSON", f"can't be read ({type(error).__name__})") from error
    if not isinstance(document, dict):
        raise _malformed(where, "line", f"is a {type(document).__name__}; it must be an object")
    if ("prompt" in document) == ("messages" in document):
        raise _malformed(where, "prompt", f"or messages must be there, and only one; there are {_names(document)}")
    if "prompt" in document:
        messages: tuple[Message, ...] = (Message("user", _text(where, "prompt", document["prompt"])),)
    else:
        messages = _messages(where, document["messages"])
    named = document.get("id") is not None
    identity = _identity(where, document["id"]) if named else _digest(messages)
    source = _name(where, "source", document.get("source") or "")
    return Prompt(identity, source, messages), named


def _messages(where: str, value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_MESSAGES:
        raise _malformed(where, "messages", f"must be a list of 1 to {MAX_MESSAGES}")
    found = []
    for index, item in enumerate(value):
        field = f"messages[{index}]"
        if not isinstance(item, dict) or not {"role", "content"} <= item.keys():
            raise _malformed(where, field, "must be an object with role and content")
        role = _name(where, f"{field}.role", item["role"])
        found.append(Message(role, _text(where, f"{field}.content", item["content"])))
    while found and found[-1].role != "user":
        found.pop()
    if not found:
        raise _malformed(where, "messages", "have none of the role 'user'")
    return tuple(found)


def _identity(where: str, value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not (name := _name(where, "id", value)):
        raise _malformed(where, "id", "is empty")
    return name


def _name(where: str, field: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_NAME:
        raise _malformed(where, field, f"must be a text of at most {MAX_NAME} characters")
    return _encodable(where, field, value)


def _text(where: str, field: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _malformed(where, field, "must be a text that isn't empty")
    return _encodable(where, field, value)


def _encodable(where: str, field: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half a character
        raise _malformed(where, field, "has half of a surrogate pair") from error
    return value


def _digest(messages: Iterable[Message]) -> str:
    whole = json.dumps([[message.role, message.content] for message in messages])
    return hashlib.sha256(whole.encode()).hexdigest()[:32]


def _names(document: dict[str, Any]) -> str:
    return ", ".join(sorted(_FIELDS & document.keys())) or "none of the known fields"


def _malformed(where: str, field: str, what: str) -> PacelineError:
    return PacelineError(Reason.MALFORMED, f"{where}: {field} {what}; correct the line or remove it", field=field)
