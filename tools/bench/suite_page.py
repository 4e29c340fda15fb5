"""A suite as a page: results in, sections out."""

from __future__ import annotations

from collections.abc import Iterator

from page import Block, Commands, Facts, Page, Section, Text
from result_acceptance import Acceptance
from result_adaptation import Adaptation
from result_base import Result
from result_routing import Routing
from result_speed import Speed
from section_acceptance import acceptance_section
from section_adaptation import adaptation_section
from section_against import against_section
from section_overview import commands, overview, what_ran
from section_routing import routing_section
from section_speed import speed_section
from suite import Suite
from suite_against import Comparison, machine_words
from suite_words import duration_words, moment

TITLE = "Paceline benchmark"


def page_of(suite: Suite, comparison: Comparison | None = None) -> Page:
    """The whole report."""
    sections = [Section("run", "What was run, and what wasn't", list(what_ran(suite)))]
    if comparison is not None:
        sections.append(against_section(comparison))
    sections += [section_of(result) for result in suite.results]
    sections.append(Section("origin", "Machine, versions, commands", list(_origin(suite))))
    return Page(TITLE, _subtitle(suite), sections, _footer(), list(overview(suite)))


def section_of(result: Result) -> Section:
    match result:
        case Speed():
            return speed_section(result)
        case Acceptance():
            return acceptance_section(result)
        case Routing():
            return routing_section(result)
        case Adaptation():
            return adaptation_section(result)
    raise TypeError(f"no section for a {type(result).__name__}")


def _subtitle(suite: Suite) -> str:
    models = dict.fromkeys(
        f"{result.model}{f' ({result.dtype})' if result.dtype else ''}" for result in suite.results if result.model
    )
    took = duration_words(suite.started, suite.ended)
    parts = [
        ", ".join(models),
        "; ".join(map(machine_words, suite.machines)),
        moment(suite.started),
        f"took {took}" if took else "",
    ]
    return " · ".join(filter(None, parts)) or "nothing was measured"


def _origin(suite: Suite) -> Iterator[Block]:
    for machine in suite.machines:
        yield Facts(
            [
                ("processor", str(machine["processor"]) or "unknown"),
                ("cores", str(machine["cores"] or "unknown")),
                ("memory", f"{machine['memory_gib']:g} GiB" if machine["memory_gib"] else "unknown"),
                ("instructions", ", ".join(machine["flags"]) or "none of those that matter are known"),
                ("system", str(machine["system"]) or "unknown"),
            ]
        )
    if suite.versions:
        yield Facts([(name, ", ".join(versions)) for name, versions in suite.versions.items()])
    times = [("began", moment(suite.started)), ("ended", moment(suite.ended))]
    yield Facts([(name, value) for name, value in times if value])
    if suite.command:
        yield Text("The report was made by:")
        yield Commands([suite.command])
    if lines := commands(suite):
        yield Text("The parts were measured by:")
        yield Commands(lines)


def _footer() -> str:
    return (
        "Compare figures of one run only: machines drift. Ranges are from the least to the greatest run. This file is "
        "complete in itself."
    )
