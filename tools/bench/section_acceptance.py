"""Acceptance, as a section: what each mix of drafters brings, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator

import pictures_acceptance
from page import Block, Cell, Notice, Picture, Section, Table
from questions import GROUPS
from result_acceptance import Acceptance, Mix, Part

SHOWN_DEPTHS = 5
FEW_DRAFTS = 0.9  # share of steps: with less one must know
BRIDGED = {"prose": "prose", "code": "code", "after_5000": "after 5,000 tokens"}


def acceptance_section(found: Acceptance) -> Section:
    heat = f"temperature {found.temperature:g}" if found.temperature else "greedy"
    verified = (
        "every candidate that had room was verified, whatever that costs"
        if found.drafting == "always"
        else "only candidates that pay on this machine were verified"
    )
    about = (
        f"{found.questions} questions, up to {found.max_new_tokens} new tokens, {heat}; {verified}. One mix of "
        "drafters after "
        "another works for the same verifier; each begins with nothing in memory. One run of each mix: no spread is "
        "known."
    )
    return Section("acceptance", "Acceptance", list(_blocks(found)), about)


def not_measured(found: Acceptance) -> Iterator[tuple[str, str]]:
    if found.bridges is None:
        yield "vocabulary bridges", "--bridge-tokenizer was not given"
    yield "the spread of acceptance", "each mix is run once; answers are the same in every run, drafts in time aren't"


def _blocks(found: Acceptance) -> Iterator[Block]:
    changed = [
        f"{name}: {its.identical[0]} of {its.identical[1]}" for name, its in found.mixes.items() if _changed(its)
    ]
    if changed:
        yield Notice("Speculation changed answers; identical are", "bad", "\n".join(changed))
    few = [f"{name} {mix.drafted_steps:.0%}" for name, mix in found.mixes.items() if mix.drafted_steps < FEW_DRAFTS]
    if few:
        yield Notice(
            f"Many steps had no candidates: their drafters had none, or were late, which a busy machine makes them. "
            f"Steps with candidates: {', '.join(few)}."
        )
    for warning in found.warnings:
        yield Notice(warning)
    yield Picture(pictures_acceptance.steps(found), "Tokens per step of each mix of drafters")
    yield Picture(
        pictures_acceptance.depths(found), "Acceptance by depth, and how deep steps got, of each mix of drafters"
    )
    yield _by_mix(found)
    if any(mix.tokens_per_step_by_group for mix in found.mixes.values()):
        yield _by_group(found)
    yield _by_drafter(found)
    if found.bridges:
        yield _by_bridge(found)


def _changed(mix: Mix) -> bool:
    same, of = mix.identical
    return same < of


def _by_mix(found: Acceptance) -> Table:
    best = max(mix.tokens_per_step for mix in found.mixes.values())
    rows: list[list[Cell | str]] = [
        [
            name,
            Cell(f"{mix.tokens_per_step:.2f}", strong=mix.tokens_per_step == best),
            *_depths(mix.acceptance_by_depth),
            f"{mix.draft_ms_per_token:.2f}",
            f"{mix.wire_bytes_per_token:,.0f}",
            Cell("{} of {}".format(*mix.identical), "bad" if _changed(mix) else "plain"),
        ]
        for name, mix in found.mixes.items()
    ]
    return Table(
        "By mix of drafters",
        ["mix", "tokens per step", *_depth_names(), "ms per token", "bytes per token", "identical"],
        rows,
        "Tokens per step: as #MAT, of all answers together. Depth: of the candidates verified there whose parent was "
        "right, "
        "the share that was right. ms, bytes: of drafting, and on the Draft stream, per committed token.",
    )


def _by_group(found: Acceptance) -> Table:
    seen = {group for mix in found.mixes.values() for group in mix.tokens_per_step_by_group}
    groups = [group for group in GROUPS if group in seen]
    rows = [
        [
            name,
            *(
                f"{mix.tokens_per_step_by_group[group]:.2f}" if group in mix.tokens_per_step_by_group else "–"
                for group in groups
            ),
            f"{mix.tokens_per_step:.2f}",
        ]
        for name, mix in found.mixes.items()
    ]
    return Table("Tokens per step by group", ["mix", *(group.replace("_", " ") for group in groups), "all"], rows)


def _by_drafter(found: Acceptance) -> Table:
    rows: list[list[Cell | str]] = []
    for name, mix in found.mixes.items():
        for drafter, its in mix.drafters.items():
            cost = [
                f"{its.draft_ms_per_token:.2f}",
                *(_bytes(its.wire_bytes_per_token, way) for way in ("received", "sent")),
            ]
            if not its.strategies:
                rows.append([name, drafter, "–", "0", "–", *["–"] * SHOWN_DEPTHS, *cost])
            for strategy, part in its.strategies.items():
                rows.append([name, drafter, strategy, *_counts(part), *cost])
    return Table(
        "By drafter and strategy",
        ["mix", "drafter", "strategy", "tested", "right", *_depth_names(), "ms", "bytes in", "bytes out"],
        rows,
        "A candidate that several proposed counts for each. ms and bytes are the drafter's, per committed token; in: "
        "to the "
        "verifier.",
        wordy=frozenset({0, 1, 2}),
    )


def _counts(part: Part) -> list[str]:
    return [f"{part.tested:,}", f"{part.acceptance:.2f}", *_depths(part.acceptance_by_depth)]


def _bytes(found: dict[str, float], way: str) -> str:
    return f"{found[way]:,.0f}" if way in found else "–"


def _by_bridge(found: Acceptance) -> Table:
    rows = [
        [name, *(f"{of_kind[kind]:.3f}" if kind in of_kind else "–" for kind in BRIDGED)]
        for name, of_kind in (found.bridges or {}).items()
    ]
    return Table(
        "Bridges: share of real text that a drafter which knows it can propose", ["bridge", *BRIDGED.values()], rows
    )


def _depth_names() -> list[str]:
    return [f"depth {depth}" if depth == 1 else f"{depth}" for depth in range(1, SHOWN_DEPTHS + 1)]


def _depths(shares: list[float]) -> list[str]:
    return [f"{shares[at]:.2f}" if at < len(shares) else "–" for at in range(SHOWN_DEPTHS)]
