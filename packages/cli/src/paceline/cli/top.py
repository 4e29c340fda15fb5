"""The command `top`: what the deployment does now, again and again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from paceline.cli.asking import get_status, router_stub
from paceline.cli.command import AsJson, UsageError, command
from paceline.cli.console import console, print_json
from paceline.cli.convert import deployment_of
from paceline.cli.deployment import Deployment
from paceline.cli.rates import Watcher
from paceline.cli.scraping import Scrape, Values, check_addresses, mean_between, scrape_all
from paceline.cli.settings import RouterSettings
from paceline.cli.tables import (
    Column,
    arms_table,
    drafters_table,
    headline,
    number,
    percent,
    table_of,
    verifiers_table,
)

SECOND_LOOK_S = 5.0  # verifiers announce themselves every two seconds, with the router's default lease
POLL_S = 0.2


@dataclass(frozen=True)
class Look:
    """What there was to see, and what a metrics port showed at the look before."""

    deployment: Deployment
    watcher: Watcher
    scrapes: list[Scrape]
    before: dict[str, Values]


@command
def top(
    settings: RouterSettings,
    interval: Annotated[float, typer.Option(min=0.2, max=3600.0, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, print it and end; so does a pipe.")] = False,
    metrics: Annotated[
        list[str] | None,
        typer.Option(help="host:port of a member's metrics port, for what only it knows; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Watch verifiers, drafters and arms: load, tokens a second, accepted candidates, expected speed. Ctrl-C ends.

    Tokens a second and shares of accepted candidates are of the time between a verifier's last two announcements, some
    two seconds. With --json one document a look, a line each.
    """
    ports = metrics or []
    try:
        check_addresses(ports)
    except ValueError as error:
        raise UsageError(f"--metrics: {error}") from None
    with contextlib.suppress(KeyboardInterrupt):  # it is how one leaves
        asyncio.run(_watch(settings, interval, ports, once or not (as_json or console.is_terminal), as_json))


async def _watch(settings: RouterSettings, interval: float, ports: list[str], once: bool, as_json: bool) -> None:
    looks = _looks(settings, interval, ports)
    first = await anext(looks)
    if as_json or once:
        print_json(to_json(first)) if as_json else console.print(render(first))
        if not once:
            async for look in looks:
                print_json(to_json(look))
        return
    with Live(render(first), console=console, screen=True, auto_refresh=False) as live:
        async for look in looks:
            live.update(render(look), refresh=True)


async def _looks(settings: RouterSettings, interval: float, ports: list[str]) -> AsyncIterator[Look]:
    """One now, once there are rates, and one each interval."""
    watcher = Watcher()
    before: dict[str, Values] = {}
    async with router_stub(settings) as stub:

        async def look() -> Deployment:
            deployment = deployment_of(await get_status(stub), settings.address)
            watcher.look(deployment)
            return deployment

        scrapes = await scrape_all(ports)
        deployment = await look()
        end_s = asyncio.get_running_loop().time() + SECOND_LOOK_S
        while not watcher.knows_all(deployment) and asyncio.get_running_loop().time() < end_s:
            await asyncio.sleep(POLL_S)
            deployment = await look()
        while True:
            before = {scrape.address: scrape.values for scrape in scrapes}
            scrapes = await scrape_all(ports)
            yield Look(deployment, watcher, scrapes, before)
            await asyncio.sleep(interval)
            deployment = await look()


def render(look: Look) -> RenderableType:
    parts: list[RenderableType] = [
        headline(look.deployment),
        verifiers_table(look.deployment, look.watcher),
        drafters_table(look.deployment, look.watcher),
        arms_table(look.deployment),
    ]
    if look.scrapes:
        parts.append(_metrics_table(look))
    if any(verifier.work is None for verifier in look.deployment.verifiers):
        parts.append(Text("'-': the verifier or the router is older than protocol 1.5 and doesn't tell", style="dim"))
    return Group(*parts)


def _metrics_table(look: Look) -> RenderableType:
    def mean_ms(name: str, scrape: Scrape) -> str:
        mean = mean_between(f"paceline:{name}", look.before.get(scrape.address, {}), scrape.values)
        return number(None if mean is None else mean * 1e3, 1)

    def gauge(name: str, scrape: Scrape) -> float | None:
        return scrape.values.get(f"paceline:{name}")

    columns: list[Column[Scrape]] = [
        Column("metrics port", lambda one: one.address),
        Column("step ms", lambda one: mean_ms("step_seconds", one), right=True),
        Column("wait for drafts ms", lambda one: mean_ms("draft_wait_seconds", one), right=True),
        Column("first token ms", lambda one: mean_ms("time_to_first_token_seconds", one), right=True),
        Column("cache held", lambda one: percent(gauge("kv_cache_usage_perc", one)), right=True),
        Column("preempted", lambda one: number(gauge("num_preemptions_total", one), 0), right=True),
        Column("failed steps", lambda one: number(gauge("step_failures_total", one), 0), right=True),
        Column("", lambda one: Text(one.trouble, style="red")),
    ]
    return table_of("Metrics, means since the look before", columns, look.scrapes, "")


def to_json(look: Look) -> dict[str, Any]:
    """What --json prints."""
    deployment, watcher = look.deployment, look.watcher
    rates = {one.id: watcher.rates(one) for one in deployment.verifiers}
    known = [one for one in rates.values() if one is not None]
    return {
        **asdict(deployment),
        "tokens_per_s": sum(one.tokens_per_s for one in known) if known else None,
        "rates": {name: None if one is None else asdict(one) for name, one in rates.items()},
        "lately": {
            one.name: {**asdict(candidates), "share": candidates.share}
            for one in deployment.drafters
            for candidates in [watcher.candidates_of(one.name)]
        },
        "metrics": {one.address: {"trouble": one.trouble, "values": one.values} for one in look.scrapes},
    }
