"""Routing, as a section: what share of the best possible speed policies missed on traffic whose best arm is known."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import pictures_routing
from page import Block, Cell, Picture, Points, Section, Table, Text
from result_routing import Regret, Routing
from routing_run import BEST_FIXED
from routing_scenes import SCENES
from suite_words import percent, spread_words

DARKEST = 0.3  # regret that is shaded in full


def routing_section(found: Routing) -> Section:
    count = len(found.seeds)
    about = (
        f"Every policy of the router plays {len(found.scenes)} made-up scenes of {found.segments:,} segments, "
        f"{'one episode' if count == 1 else f'{count} episodes'} of each. Regret is the share of speed that was "
        "missed: 1 "
        "minus the expected time of the best arm for each segment, divided by that of what was chosen. No model runs "
        "here, "
        "so figures depend on the software and on the seeds, and not on the machine."
    )
    return Section("routing", "Routing", list(_blocks(found)), about)


def not_measured(found: Routing) -> Iterator[tuple[str, str]]:
    absent = [scene.name.replace("_", " ") for scene in SCENES if scene.name not in found.scenes]
    if absent:
        yield "scenes", f"{', '.join(absent)} were not played"
    if len(found.seeds) < 2:
        yield "the spread of regret", "there was one seed; --seeds 3 or more shows it"
    yield (
        "choosing live",
        "policies on a real deployment are measured by //tools/bench:choosing, which is no part of this",
    )


def headline(found: Routing) -> tuple[str, str, str] | None:
    """Label, figure and what it is of: the default policy's share of the best possible speed."""
    regrets = [
        figures[found.default_policy].regret for figures in found.scenes.values() if found.default_policy in figures
    ]
    if not regrets:
        return None
    within = f"{percent(1 - max(regrets))} – {percent(1 - min(regrets))} in {len(regrets)} scenes"
    return f"of the best speed: router's {found.default_policy}", percent(1 - median(regrets)), f"median; {within}"


def _blocks(found: Routing) -> Iterator[Block]:
    if svg := pictures_routing.curves(found):
        yield Picture(
            svg,
            "Regret so far of each policy over segments, by scene",
            f"Median of {len(found.seeds)} episodes. Thick: {found.default_policy}, what routers use by default. "
            "Dotted: the "
            "one arm that would have been best throughout, which nobody knows beforehand.",
        )
    yield _table(found)
    if found.liar:
        yield Text(_liar(found))
    if found.decision_ms_p99_by_policy:
        times = ", ".join(f"{name} {ms:.2f}" for name, ms in found.decision_ms_p99_by_policy.items())
        yield Text(f"99 % of decisions between 32 arms take at most, in ms on this machine: {times}.")
    known = {scene.name: scene.about for scene in SCENES}
    yield Points([(name.replace("_", " "), known[name]) for name in found.scenes if name in known])


def _table(found: Routing) -> Table:
    names = dict.fromkeys(name for figures in found.scenes.values() for name in figures)
    policies = sorted(names, key=lambda name: (name != found.default_policy, name == BEST_FIXED))
    rows: list[list[Cell | str]] = [
        [
            f"{policy} (default)" if policy == found.default_policy else policy,
            *(_cell(figures.get(policy)) for figures in found.scenes.values()),
        ]
        for policy in policies
    ]
    return Table(
        "Regret against the oracle, %",
        ["policy", *(scene.replace("_", " ") for scene in found.scenes)],
        rows,
        f"Medians of {len(found.seeds)} seeds; small: least and greatest. The stronger the shade, the more was missed. "
        "The oracle knows the best arm of each segment.",
        strong_rows=frozenset({0} if found.default_policy in names else ()),
    )


def _cell(regret: Regret | None) -> Cell:
    if regret is None:
        return Cell("–")
    limits = [100 * value for value in regret.spread] if regret.spread else None
    share = max(0.0, min(1.0, regret.regret / DARKEST))
    return Cell(f"{100 * regret.regret:.1f}", below=spread_words(limits, ".1f"), share=share)


def _liar(found: Routing) -> str:
    measured = found.liar.get("share_when_time_is_measured", 0.0)
    believed = found.liar.get("share_when_reports_are_believed", 0.0)
    regret = found.liar.get("regret_when_reports_are_believed", 0.0)
    return (
        f"The liar reports 95 % acceptance and costs time. It drafts for {percent(measured)} of segments; if its "
        "reports were "
        f"believed, it would for {percent(believed)}, at a regret of {percent(regret)}."
    )
