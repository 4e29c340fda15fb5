"""Which measurements a suite consists of, and how each is asked for: pure, from options to command lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rounds import BenchError
from suite_results import PARTS

NEEDS = {"speed": "questions", "acceptance": "questions", "adaptation": "prompts"}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured. A `limit` of None takes all questions."""

    limit: int | None
    repeat: int
    max_new_tokens: int
    concurrency: str
    long_prompt: int
    transformers: bool
    segments: int
    seeds: int
    tokens: int  # of traffic in each domain
    held_out: int
    bootstrap_prompts: int
    refit_arguments: str


FULL = Size(None, 5, 128, "2,8", 2000, True, 2000, 9, 20_000, 12, 300, "")
QUICK = Size(
    limit=6,
    repeat=3,
    max_new_tokens=48,
    concurrency="",
    long_prompt=0,
    transformers=False,
    segments=300,
    seeds=3,
    tokens=800,
    held_out=3,
    bootstrap_prompts=40,
    refit_arguments="--schedule interval --interval-tokens 512 --passes 2",
)
LEFT_OUT_BY_QUICK = [
    "transformers by itself isn't measured, so nothing is said of how Paceline without speculation compares",
    "several requests at once, and a long prompt beside a running session",
    f"most of the questions: {QUICK.limit} are asked; answers have at most {QUICK.max_new_tokens} tokens",
    f"long episodes: policies have {QUICK.segments} segments instead of {FULL.segments} to learn in",
    f"much traffic: a drafter sees {QUICK.tokens} tokens of each domain instead of {FULL.tokens:,}, too few to adapt",
]


@dataclass(frozen=True)
class SuitePlan:
    """What is wanted.

    Attributes:
        parts: those to run, in order.
        size: how much of each.
        mixes: of drafters, for acceptance.
        revision: drafter that adaptation begins with; None bootstraps one.
    """

    parts: Sequence[str]
    size: Size
    questions: Path | None
    prompts: Path | None
    model: str
    dtype: str
    drafters: str
    mixes: str
    revision: Path | None = None
    verifier_arguments: str = ""
    quick: bool = False

    def missing(self, part: str) -> str:
        """Why a part can't run: the file that it needs wasn't given. Empty if it can."""
        needed = NEEDS.get(part)
        if needed is None or getattr(self, needed) is not None:
            return ""
        return f"it needs --{needed} FILE"


def chosen_parts(only: str) -> list[str]:
    """Of a list with commas; all if it is empty."""
    wanted = [name.strip() for name in only.split(",") if name.strip()]
    for name in wanted:
        if name not in PARTS:
            raise BenchError(f"--only names {name[:40]!r}; there are {', '.join(PARTS)}")
    return [name for name in PARTS if not wanted or name in wanted]


def arguments_of(part: str, plan: SuitePlan) -> list[str]:
    """For the part's own command, without where its figures go."""
    return {"speed": _speed, "acceptance": _acceptance, "routing": _routing, "adaptation": _adaptation}[part](plan)


def _speed(plan: SuitePlan) -> list[str]:
    size = plan.size
    return [
        *_asking(plan),
        *("--repeat", str(size.repeat), "--drafters", plan.drafters),
        *(("--concurrency", size.concurrency) if size.concurrency else ()),
        *(("--long-prompt", str(size.long_prompt)) if size.long_prompt else ()),
        *(() if size.transformers else ("--without-transformers",)),
    ]


def _acceptance(plan: SuitePlan) -> list[str]:
    return [*_asking(plan), "--drafters", plan.mixes]


def _asking(plan: SuitePlan) -> list[str]:
    size = plan.size
    return [
        *("--questions", str(plan.questions), "--model", plan.model, "--dtype", plan.dtype),
        *(("--limit", str(size.limit)) if size.limit else ()),
        *("--max-new-tokens", str(size.max_new_tokens)),
        *(("--verifier-args", plan.verifier_arguments) if plan.verifier_arguments else ()),
    ]


def _routing(plan: SuitePlan) -> list[str]:
    return ["--segments", str(plan.size.segments), "--seeds", str(plan.size.seeds)]


def _adaptation(plan: SuitePlan) -> list[str]:
    size = plan.size
    return [
        *("--prompts", str(plan.prompts), "--model", plan.model, "--tokens", str(size.tokens)),
        *("--held-out", str(size.held_out), "--max-new-tokens", str(size.max_new_tokens)),
        *("--bootstrap-prompts", str(size.bootstrap_prompts)),
        *(("--revision", str(plan.revision)) if plan.revision else ()),
        *(("--refit-args", size.refit_arguments) if size.refit_arguments else ()),
    ]
