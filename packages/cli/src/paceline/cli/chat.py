"""A conversation with the model behind a router."""

from __future__ import annotations

import asyncio
from typing import Annotated

import grpc
import typer

from paceline.cli.console import console
from paceline.cli.measure import Answer, ask, request_for
from paceline.v1 import router_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings
from paceline.wire.status import from_rpc_error


def main(
    router: Annotated[str, typer.Option(help="host:port of the router.")] = "127.0.0.1:7700",
    max_tokens: Annotated[int, typer.Option(min=1, max=4096, help="Most tokens of each answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, max=100.0, help="0 is greedy.")] = 0.0,
    speculation: Annotated[bool, typer.Option(help="Whether drafters may help.")] = True,
) -> None:
    """Type a message and watch the answer stream; an empty line or Ctrl-D ends."""
    asyncio.run(converse(router, max_tokens, temperature, speculation))


async def converse(router: str, max_tokens: int, temperature: float, speculation: bool) -> None:
    history: list[tuple[str, str]] = []
    async with connect(router, ClientSettings()) as channel:
        stub = router_pb2_grpc.RouterStub(channel)
        while question := await asyncio.to_thread(_read):
            request = request_for(
                [*history, ("user", question)],
                max_tokens=max_tokens,
                temperature=temperature,
                seed=len(history),
                speculation=speculation,
            )
            try:
                answer = await ask(stub, request, lambda text: print(text, end="", flush=True))
            except grpc.aio.AioRpcError as error:
                refusal = from_rpc_error(error)
                console.print(refusal.message if refusal else f"{router}: {error.details()}", style="red", markup=False)
                continue
            history += [("user", question), ("assistant", answer.text)]
            _print_figures(answer)


def _read() -> str:
    try:
        return input("\n> ").strip()
    except EOFError:
        return ""


def _print_figures(answer: Answer) -> None:
    shares = ", ".join(f"{name} {accepted}/{proposed}" for name, (proposed, accepted) in answer.drafters.items())
    console.print(
        f"\n[dim]{len(answer.ids)} tokens, {answer.tokens_per_step:.2f} a step, {answer.tokens_per_second:.1f}/s"
        f"{'; accepted of proposed: ' + shares if shares else ''}[/dim]",
        highlight=False,
    )


if __name__ == "__main__":
    typer.run(main)
