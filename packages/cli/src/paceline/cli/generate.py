"""The command `generate`: one prompt, one answer."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf.json_format import MessageToDict

from paceline.cli.asking import router_stub
from paceline.cli.colouring import Palette
from paceline.cli.command import AsJson, CommandError, UsageError, command
from paceline.cli.completion import drafter_names
from paceline.cli.console import console, print_json
from paceline.cli.measure import Answer, Part, ask, request_for
from paceline.cli.settings import RouterSettings
from paceline.cli.showing import Stream, figures, legend
from paceline.v1 import generation_pb2, router_pb2_grpc

MAX_PROMPT_BYTES = 8 * 1024 * 1024  # as over HTTP


@dataclass(frozen=True)
class Asked:
    """One question, and how it is to be answered. `raw` leaves the chat template out."""

    prompt: str
    raw: bool
    max_tokens: int
    temperature: float
    seed: int | None
    speculation: bool
    drafters: tuple[str, ...]
    model: str
    timeout_s: float | None

    def request(
        self, pieces: bool = False, plain: bool = False, seed: int | None = None
    ) -> generation_pb2.GenerateRequest:
        """plain: without speculation. seed: that an answer reported."""
        request = request_for(
            [("user", self.prompt)],
            max_tokens=self.max_tokens,
            temperature=self.temperature,
            speculation=self.speculation and not plain,
            drafters=() if plain else self.drafters,
            pieces=pieces,
            model=self.model,
        )
        if self.raw:
            request.text = self.prompt
        request.sampling.ClearField("seed")
        if (chosen := self.seed if seed is None else seed) is not None:
            request.sampling.seed = chosen
        return request


@dataclass(frozen=True)
class Comparison:
    """An answer with speculation, and the same question's without."""

    drafted: Answer
    plain: Answer

    @property
    def identical(self) -> bool:
        return self.drafted.ids == self.plain.ids and self.drafted.text == self.plain.text

    @property
    def speedup(self) -> float:
        return self.plain.seconds / self.drafted.seconds if self.drafted.seconds else 0.0


@command
def generate(
    settings: RouterSettings,
    prompt: Annotated[str, typer.Argument(help="What to ask; '-' or nothing reads standard input.")] = "-",
    file: Annotated[Path | None, typer.Option(help="Read the prompt from this file.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without the chat template.")] = False,
    max_tokens: Annotated[int, typer.Option(min=1, max=1_048_576, help="Most tokens of the answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, max=100.0, help="0 is greedy.")] = 0.0,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**64 - 1, help="Repeats an answer; without it one is drawn.")
    ] = None,
    speculation: Annotated[bool, typer.Option(help="Whether drafters may help. The text is the same.")] = True,
    drafter: Annotated[
        list[str] | None,
        typer.Option(help="Only this drafter, by name or id; may be repeated.", autocompletion=drafter_names),
    ] = None,
    model: Annotated[str, typer.Option(help="The model to ask, if the router has several.")] = "",
    compare: Annotated[
        bool, typer.Option("--compare", help="Ask again without speculation; says whether the answers are identical.")
    ] = False,
    sources: Annotated[
        bool, typer.Option("--sources", help="Colour each token by the drafter that proposed it.")
    ] = False,
    timeout: Annotated[float | None, typer.Option(min=0.01, help="Give up after so many seconds.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answer one prompt, from the argument, a file or standard input.

    The text goes to standard output as it comes, and nothing else does. With --compare, exit code 1 means that the
    answers differ, which would be a bug.
    """
    if compare and not speculation:
        raise UsageError("--compare is of answers with and without speculation; leave --no-speculation out")
    asked = Asked(
        _prompt(prompt, file), raw, max_tokens, temperature, seed, speculation, tuple(drafter or ()), model, timeout
    )
    found = asyncio.run(_ask(settings, asked, compare, sources, shown=not as_json))
    if as_json:
        print_json(to_json(found))
    if isinstance(found, Comparison) and not found.identical:
        raise CommandError("the answers differ: that is a bug in Paceline; please report it with the output of --json")


async def _ask(
    settings: RouterSettings, asked: Asked, compare: bool, sources: bool, shown: bool
) -> Answer | Comparison:
    palette = Palette() if sources and asked.speculation else None
    on_part = Stream(console, palette).show if shown else _nothing
    async with router_stub(settings) as stub:
        if compare:
            await _warm(stub, asked)
        request = asked.request(pieces=palette is not None and shown)
        drafted = await ask(stub, request, on_part=on_part, timeout_s=asked.timeout_s)
        if shown:
            _conclude(drafted, palette)
        if not compare:
            return drafted
        request = asked.request(pieces=palette is not None and shown, plain=True, seed=drafted.seed)
        comparison = Comparison(drafted, await ask(stub, request, timeout_s=asked.timeout_s))
    if shown:
        _compared(comparison)
    return comparison


async def _warm(stub: router_pb2_grpc.RouterStub, asked: Asked) -> None:
    """Has the prompt read once: else the first of two would be timed with it, and the second without."""
    request = asked.request(plain=True)
    request.limits.max_tokens = 1
    await ask(stub, request, timeout_s=asked.timeout_s)


def _nothing(_part: Part) -> None:
    """Of an answer that is printed when it is whole."""


def _prompt(given: str, file: Path | None) -> str:
    """Raises CommandError or UsageError."""
    if file is not None:
        if given != "-":
            raise UsageError("give the prompt as an argument or with --file, not both")
        try:
            content = file.read_bytes()
        except OSError as error:
            raise CommandError(f"--file {file} can't be read: {error.strerror}") from None
    elif given != "-":
        content = given.encode(errors="surrogateescape")
    else:
        if sys.stdin.isatty():
            console.print("(type the prompt, end it with Ctrl-D)", style="dim")
        content = sys.stdin.buffer.read(MAX_PROMPT_BYTES + 1)
    if len(content) > MAX_PROMPT_BYTES:
        raise UsageError(f"the prompt has more than {MAX_PROMPT_BYTES} bytes")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"the prompt is no text in UTF-8 (byte {error.start})") from None
    if not text.strip():
        raise UsageError("the prompt is empty; give it as an argument, with --file, or on standard input")
    return text


def _conclude(answer: Answer, palette: Palette | None) -> None:
    """The text's end; figures only where a person looks, so that a file has the text alone."""
    console.file.write("\n")
    if not console.is_terminal:
        return
    if palette is not None:
        console.print(legend(answer, palette))
    console.print(figures(answer))


def _compared(found: Comparison) -> None:
    verdict = "[green]identical[/green]" if found.identical else "[red]NOT IDENTICAL[/red]"
    console.print(
        f"{verdict} without speculation; {found.speedup:.2f} x its speed "
        f"({found.drafted.tokens_per_second:.1f} against {found.plain.tokens_per_second:.1f} tokens/s)",
        highlight=False,
    )


def to_json(found: Answer | Comparison) -> dict[str, Any]:
    """What --json prints."""
    if isinstance(found, Answer):
        return _answer_json(found)
    return {
        **_answer_json(found.drafted),
        "comparison": {
            "identical": found.identical,
            "speedup": round(found.speedup, 3),
            "plain": _answer_json(found.plain),
        },
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    return {
        "text": answer.text,
        "tokens": [
            {"id": token, "source": source or None} for token, source in zip(answer.ids, answer.sources, strict=True)
        ],
        "model": answer.model,
        "seed": answer.seed,
        "prompt_tokens": answer.prompt_tokens,
        "finish_reason": answer.reason,
        "seconds": round(answer.seconds, 4),
        "tokens_per_second": round(answer.tokens_per_second, 2),
        "tokens_per_step": round(answer.tokens_per_step, 3),
        "outcome": MessageToDict(
            answer.outcome, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        ),
    }
