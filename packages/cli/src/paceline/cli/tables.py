"""A deployment as tables. Others choose their names, so every cell is text and never markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from paceline.cli.console import console
from paceline.cli.deployment import Arm, Deployment, Drafter, Trainer, Verifier
from paceline.cli.rates import Rates, Watcher

T = TypeVar("T")
NOTHING = "-"
GAP = 2  # blanks that a column takes beside its cells
SHORT = 12  # characters of a revision that tell it from others


@dataclass(frozen=True)
class Column(Generic[T]):
    """A heading and what stands below it. rank: the higher, the sooner it is left out where there is little room."""

    heading: str
    cell: Callable[[T], str | Text]
    right: bool = False
    rank: int = 0


def table_of(title: str, columns: Iterable[Column[T]], rows: Iterable[T], empty: str) -> RenderableType:
    """A table with its title; `empty` is what is said if there are no rows."""
    rows = list(rows)
    if not rows:
        return Text.assemble((title, "bold"), f": {empty}\n")
    shown = fitting([(column, [column.cell(row) for row in rows]) for column in columns], console.width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for column, _cells in shown:
        table.add_column(column.heading, justify="right" if column.right else "left", overflow="fold")
    for cells in zip(*(cells for _column, cells in shown), strict=True):
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in cells))
    return Group(Text(title, style="bold"), table, Text())


def fitting(columns: list[tuple[Column[T], list[str | Text]]], width: int) -> list[tuple[Column[T], list[str | Text]]]:
    """Those for which there is room, without a cell being folded, as far as columns may be left out."""

    def needed(column: Column[T], cells: list[str | Text]) -> int:
        return GAP + max(len(column.heading), *(len(str(cell)) for cell in cells))

    shown = list(columns)
    while sum(needed(*one) for one in shown) > width:
        last = max(shown, key=lambda one: one[0].rank)
        if last[0].rank == 0:
            break
        shown.remove(last)
    return shown


def headline(deployment: Deployment) -> Text:
    return Text(
        f"router {deployment.router}, version {deployment.version}, protocol {deployment.protocol}, "
        f"policy {deployment.policy}: {deployment.active_requests} requests active, "
        f"{deployment.finished_requests} finished\n"
    )


def verifiers_table(deployment: Deployment, watcher: Watcher | None = None) -> RenderableType:
    """With a watcher also how fast they are."""
    columns: list[Column[Verifier]] = [
        Column("id", lambda one: one.id),
        Column("address", lambda one: one.address, rank=2),
        Column("model", lambda one: one.model, rank=1),
        Column("state", _verifier_state),
        Column("running", lambda one: _running(one), right=True),
        Column("queued", lambda one: _count(one.work.queued if one.work else None), right=True),
    ]
    if watcher is not None:
        columns += _speed_columns(watcher)
    columns.append(Column("drafters", lambda one: ", ".join(one.drafters) or NOTHING, rank=3))
    if watcher is None:
        columns.append(Column("version", lambda one: one.version, rank=4))
    return table_of("Verifiers", columns, deployment.verifiers, "none; requests are refused until one is there")


def _speed_columns(watcher: Watcher) -> list[Column[Verifier]]:
    def of(pick: Callable[[Rates], float | None], form: Callable[[float | None], str]) -> Callable[[Verifier], str]:
        def cell(verifier: Verifier) -> str:
            rates = watcher.rates(verifier)
            return form(None if rates is None else pick(rates))

        return cell

    return [
        Column("tokens/s", of(lambda rates: rates.tokens_per_s, lambda value: number(value, 1)), right=True),
        Column("a step", of(lambda rates: rates.tokens_per_step, lambda value: number(value, 2)), right=True),
        Column("accepted", of(lambda rates: rates.acceptance, percent), right=True),
    ]


def drafters_table(deployment: Deployment, watcher: Watcher | None = None) -> RenderableType:
    """Accepted of verified candidates: since the verifiers started, or, with a watcher, lately."""
    shared = [arm for arm in deployment.arms if len(arm.drafters) == 1 and not arm.max_nodes]
    alone = {(arm.model, arm.drafters[0]): arm for arm in shared}

    def speed(drafter: Drafter) -> str:
        arms = [arm for (_, name), arm in alone.items() if name == drafter.name]
        return " / ".join(speed_of(arm) for arm in arms) or NOTHING

    def accepted(drafter: Drafter) -> str:
        candidates = deployment.candidates_of(drafter.name)
        return percent((watcher.candidates_of(drafter.name) if watcher is not None else candidates).share)

    columns: list[Column[Drafter]] = [
        Column("name", lambda one: one.name),
        Column("id", lambda one: one.id, rank=4),
        Column("state", _drafter_state),
        Column("strategies", lambda one: ", ".join(one.strategies) or NOTHING, rank=2),
        Column("revision", lambda one: one.revision[:SHORT] or NOTHING, rank=3),
        Column("verifiers", lambda one: ", ".join(one.verifiers) or Text("not connected", style="yellow"), rank=1),
        Column("verified", lambda one: _count(deployment.candidates_of(one.name).proposed or None), right=True),
        Column("accepted", accepted, right=True),
        Column("alone", speed, right=True),
    ]
    return table_of(
        "Drafters, with their speed alone (plain decoding is 1)",
        columns,
        deployment.drafters,
        "none; answers come by plain decoding",
    )


def trainers_table(deployment: Deployment) -> RenderableType:
    columns: list[Column[Trainer]] = [
        Column("id", lambda one: one.id),
        Column("address", lambda one: one.address, rank=2),
        Column("version", lambda one: one.version, rank=4),
    ]
    return table_of("Trainers", columns, deployment.trainers, "none")


def arms_table(deployment: Deployment, with_drafters_only: bool = False) -> RenderableType:
    """What the router chooses between; the fastest of each model stands out."""
    arms = [arm for arm in deployment.arms if arm.drafters or not with_drafters_only]
    best: dict[str, float] = {}
    for arm in arms:
        best[arm.model] = max(best.get(arm.model, 0.0), arm.speed or 0.0)

    def speed(arm: Arm) -> Text:
        return Text(speed_of(arm), style="green" if arm.speed and arm.speed == best[arm.model] else "")

    columns: list[Column[Arm]] = [
        Column("model", lambda one: one.model, rank=1),
        Column("drafters", lambda one: one.label),
        Column("segments", lambda one: f"{one.segments:.1f}", right=True),
        Column("speed", speed, right=True),
        Column("bonus", lambda one: "untried" if one.bonus is None else f"{one.bonus:.2f}", right=True),
    ]
    return table_of(
        f"Arms of policy {deployment.policy}, by speed (plain decoding is 1)", columns, arms, "none without a verifier"
    )


def speed_of(arm: Arm) -> str:
    return NOTHING if arm.speed is None else f"{arm.speed:.2f} x"


def number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def _count(value: int | None) -> str:
    return NOTHING if value is None else str(value)


def _running(verifier: Verifier) -> str:
    running = verifier.load if verifier.work is None else verifier.work.running
    return f"{running}/{verifier.capacity}"


def _verifier_state(verifier: Verifier) -> Text:
    if verifier.draining:
        return Text("draining", style="yellow")
    return Text("full", style="yellow") if verifier.load >= verifier.capacity else Text("ready", style="green")


def _drafter_state(drafter: Drafter) -> Text:
    if drafter.draining:
        return Text("draining", style="yellow")
    if drafter.trial_of:
        return Text(f"on trial for {drafter.trial_of}", style="yellow")
    return Text("own", style="cyan") if drafter.own else Text("ready", style="green")
