"""What is seen first: the figures one asks for, what must not be overlooked, and what was not run."""

from __future__ import annotations

from collections.abc import Iterator

import section_acceptance
import section_adaptation
import section_routing
import section_speed
from page import Block, Cell, Notice, Points, Table, Tile, Tiles, Tone
from result_acceptance import Acceptance
from result_adaptation import Adaptation
from result_base import Result
from result_routing import Routing
from result_speed import Speed
from suite import PartOutcome, Suite, command_of, ended_of, started_of
from suite_against import machine_words
from suite_words import duration_words, moment

BUSY = 0.15  # processors of others; with less, medians of several repeats are hardly touched
TONES: dict[str, Tone] = {"done": "good", "failed": "bad", "not run": "warn"}


def overview(suite: Suite) -> Iterator[Block]:
    """Before all sections."""
    yield from _notices(suite)
    tiles = list(_tiles(suite))
    if tiles:
        yield Tiles(tiles)


def what_ran(suite: Suite) -> Iterator[Block]:
    """The parts, and in plain view what is not in them."""
    yield Table(
        "Parts",
        ["part", "state", "began", "took", "processors used by others"],
        [
            [
                part.name,
                Cell(part.state, TONES[part.state], strong=True),
                moment(started_of(part)) or "–",
                duration_words(started_of(part), ended_of(part)) or "–",
                _others(part),
            ]
            for part in suite.parts
        ],
        "Processors used by others: how many were busy with other programs, in the mean, while the part ran. Times are "
        "worth something if that is about 0.",
        wordy=frozenset({0, 1, 2}),
    )
    yield Points(list(not_run(suite)), "Not run, and so not known")


def not_run(suite: Suite) -> Iterator[tuple[str, str]]:
    """What and why, of whole parts and within parts."""
    for part in suite.parts:
        if part.state == "not run":
            yield f"{part.name}:", part.why
        if part.result is not None:
            for what, why in _within(part.result):
                yield f"{part.name}, {what}:", why
    for note in suite.notes:
        yield "left out by --quick:", note
    yield "other machines and models:", "all figures are of the machine and the model named here"


def _within(result: Result) -> Iterator[tuple[str, str]]:
    match result:
        case Speed():
            yield from section_speed.not_measured(result)
        case Acceptance():
            yield from section_acceptance.not_measured(result)
        case Routing():
            yield from section_routing.not_measured(result)
        case Adaptation():
            yield from section_adaptation.not_measured(result)


def _notices(suite: Suite) -> Iterator[Block]:
    for part in suite.parts:
        if part.state == "failed":
            first, _, rest = part.why.partition("\n")
            kept = " What it measured before is shown." if part.result else ""
            yield Notice(f"{part.name} failed: {first.rstrip(':')}.{kept}", "bad", rest)
    if len(suite.machines) > 1:
        found = "\n".join(map(machine_words, suite.machines))
        yield Notice("The parts were measured on different machines; their times can't be put together.", "bad", found)
    busy = [part for part in suite.parts if part.record and (part.record.others or 0.0) > BUSY]
    if busy:
        words = ", ".join(f"{_others(part).text} while {part.name} ran" for part in busy)
        yield Notice(
            f"The machine was busy: other programs used {words}. Tokens per second and milliseconds are worth nothing."
        )
    differing = {name: versions for name, versions in suite.versions.items() if len(versions) > 1}
    if differing:
        words = "; ".join(f"{name} {', '.join(versions)}" for name, versions in differing.items())
        yield Notice(f"The parts were measured with different versions: {words}.")


def _others(part: PartOutcome) -> Cell:
    if part.record is None or part.record.others is None:
        return Cell("not known")
    of = f" of {part.record.cores}" if part.record.cores else ""
    return Cell(f"{part.record.others:.2f}{of}", "warn" if part.record.others > BUSY else "plain")


def _tiles(suite: Suite) -> Iterator[Tile]:
    speed, acceptance = suite.result("speed"), suite.result("acceptance")
    if isinstance(speed, Speed):
        if found := section_speed.headline(speed):
            yield Tile(*found)
        if "all" in speed.tokens_per_step:
            below = f"mean accepted tokens (#MAT) of {speed.questions} questions"
            yield Tile("tokens per step", f"{speed.tokens_per_step['all']:.2f}", below)
    same, of = _identical(suite)
    if of:
        tone: Tone = "good" if same == of else "bad"
        yield Tile("identical answers", f"{same:,} of {of:,}", "on and off compared token by token, in all parts", tone)
    if isinstance(acceptance, Acceptance) and not isinstance(speed, Speed):
        name, best = max(acceptance.mixes.items(), key=lambda pair: pair[1].tokens_per_step)
        yield Tile("tokens per step", f"{best.tokens_per_step:.2f}", f"best mix: {name}")
    routing, adaptation = suite.result("routing"), suite.result("adaptation")
    if isinstance(routing, Routing) and (found := section_routing.headline(routing)):
        yield Tile(*found)
    if isinstance(adaptation, Adaptation):
        yield Tile(*section_adaptation.headline(adaptation))


def _identical(suite: Suite) -> tuple[int, int]:
    """Answers with the tokens that they have without speculation, and answers that were compared."""
    pairs: list[list[int]] = []
    for result in suite.results:
        match result:
            case Speed():
                pairs.append(result.identical.get("paceline", [0, 0]))
                for crowd in result.concurrency.values():
                    pairs += [its.identical for its in (crowd.off, crowd.on) if its]
            case Acceptance():
                pairs += [mix.identical for mix in result.mixes.values()]
            case Adaptation():
                pairs.append(result.identical)
    return sum(same for same, _of in pairs), sum(of for _same, of in pairs)


def commands(suite: Suite) -> list[str]:
    """What to type to measure each part again."""
    lines = (command_of(part).partition(" ") for part in suite.parts if command_of(part))
    return [f"./bazelw run //tools/bench:{tool} -- {rest}" for tool, _space, rest in lines]
