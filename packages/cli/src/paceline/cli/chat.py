"""The command `chat`: a conversation with the model behind a router."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Annotated

import typer

from paceline.cli.asking import ask_status, router_stub
from paceline.cli.colouring import Palette
from paceline.cli.command import CommandError, command
from paceline.cli.console import complain, console
from paceline.cli.measure import Answer, ask, request_for
from paceline.cli.settings import RouterSettings
from paceline.cli.showing import Stream, figures, legend
from paceline.v1 import generation_pb2


@command
def chat(
    settings: RouterSettings,
    max_tokens: Annotated[int, typer.Option(min=1, max=1_048_576, help="Most tokens of each answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, max=100.0, help="0 is greedy.")] = 0.0,
    speculation: Annotated[bool, typer.Option(help="Whether drafters may help. The text is the same.")] = True,
    sources: Annotated[bool, typer.Option(help="Colour each token by the drafter that proposed it.")] = True,
    model: Annotated[str, typer.Option(help="The model to ask, if the router has several.")] = "",
    system: Annotated[str, typer.Option(help="A system message to begin with.")] = "",
) -> None:
    """Talk to the model: type a message and watch the answer stream.

    What the model said itself is plain; what a drafter proposed has the drafter's colour. Ctrl-C stops an answer; an
    empty line or Ctrl-D ends.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # arrows and history at the prompt
    asyncio.run(ask_status(settings))  # that nobody is there is said before the first message is typed
    palette = Palette() if sources and speculation else None
    history = [("system", system)] if system else []
    while question := _read():
        request = request_for(
            [*history, ("user", question)],
            max_tokens=max_tokens,
            temperature=temperature,
            seed=len(history),
            speculation=speculation,
            pieces=palette is not None,
            model=model,
        )
        try:
            answer = asyncio.run(_answer(settings, request, palette))
        except KeyboardInterrupt:
            console.print("\n(stopped; what was said is forgotten)", style="dim")
            continue
        except CommandError as error:
            console.print()
            complain("paceline chat", str(error))
            continue
        history += [("user", question), ("assistant", answer.text)]
        _conclude(answer, palette)


def _read() -> str:
    try:
        return input("\n> ").strip()
    except (EOFError, KeyboardInterrupt):
        console.print()
        return ""


async def _answer(settings: RouterSettings, request: generation_pb2.GenerateRequest, palette: Palette | None) -> Answer:
    async with router_stub(settings) as stub:
        return await ask(stub, request, on_part=Stream(console, palette).show)


def _conclude(answer: Answer, palette: Palette | None) -> None:
    console.print("\n")
    if palette is not None:
        console.print(legend(answer, palette))
    console.print(figures(answer))
