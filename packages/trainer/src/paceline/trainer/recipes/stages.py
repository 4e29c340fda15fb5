"""What `bootstrap` does, one stage after another: answers, readings, a drafter, a revision.

    WORK/answers     the target's answers
    WORK/readings    what the target thought of them
    WORK/RECIPE      the recipe's own: vocabulary, states of the training

Each stage goes on where it was stopped, and does nothing if it is done.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from paceline.trainer.data.answering import Asking, answer_all
from paceline.trainer.data.asking import ask_all
from paceline.trainer.data.prompts import mixed, read_prompts
from paceline.trainer.data.reading import read_all
from paceline.trainer.data.rows import ANSWERS, READINGS, Origin
from paceline.trainer.data.shards import Shards
from paceline.trainer.data.target import Target, load_target
from paceline.trainer.learning.objectives import OBJECTIVES
from paceline.trainer.models.revision import write_revision
from paceline.trainer.recipes.base import Chosen, Job, Making, Readings, Recipe, Together, Unread
from paceline.trainer.recipes.registry import RECIPES
from paceline.trainer.recipes.settings import BootstrapSettings, sources_of
from paceline.v1 import trainer_pb2
from paceline.wire.revision_folder import open_revision
from paceline.wire.settings import StartupError

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    revision_id: str
    summary: str
    metrics: dict[str, float]
    num_bytes: int
    seconds: float


def run(settings: BootstrapSettings, work: Path, command: str) -> Outcome:
    """All stages. Raises PacelineError, StartupError or OSError."""
    begun_s = time.monotonic()
    recipe = _recipe(settings)
    target = load_target(settings.target, settings.dtype, settings.threads)
    readings = Chosen(_readings(settings, target, recipe, work), sources_of(settings))
    job = Job(
        target=target,
        readings=readings,
        work=work / settings.recipe,
        making=making_of(settings),
        parent=settings.parent,
    )
    made = recipe.make(job)
    manifest = trainer_pb2.RevisionManifest(
        drafter=settings.name or settings.recipe,
        parent=open_revision(settings.parent).revision_id if settings.parent else "",
        model=target.model_name,
        tokenizer_hash=target.tokenizer_hash,
        command=command,
        metrics=made.metrics,
        data=readings.sha256(),
    )
    weights = None if settings.weights == "none" else settings.weights
    written = write_revision(
        settings.out, made.module, made.card, made.vocabulary, manifest, weights=weights, probe=made.probe
    )
    return Outcome(
        written.revision_id,
        made.summary,
        dict(written.manifest.metrics),
        written.num_bytes,
        time.monotonic() - begun_s,
    )


def making_of(settings: BootstrapSettings) -> Making:
    """What a recipe is told."""
    return Making(
        objective=settings.objective,
        vocab_size=settings.vocabulary,
        width=settings.width,
        num_layers=settings.layers,
        epochs=settings.epochs,
        pretrain_epochs=settings.pretrain_epochs,
        learning_rate=settings.learning_rate,
        batch_tokens=settings.batch_tokens,
        held_out=settings.held_out,
        max_judged=settings.max_judged,
        seed=settings.seed,
    )


def _recipe(settings: BootstrapSettings) -> Recipe:
    for option, value, known in (
        ("--recipe", settings.recipe, tuple(RECIPES)),
        ("--objective", settings.objective, ("", *OBJECTIVES)),
    ):
        if value not in known:
            raise StartupError(f"{option} is {value!r}; it must be one of {', '.join(filter(None, known))}")
    _check_unused(settings)
    recipe = RECIPES[settings.recipe]()
    if settings.parent and not recipe.takes_parents:
        raise StartupError(f"--parent has no effect on {settings.recipe}: `refit` goes on with a line of its revisions")
    return recipe


def _check_unused(settings: BootstrapSettings) -> None:
    """What has no effect is a mistake."""
    there = "--readings" if settings.readings else "--answers" if settings.answers else ""
    asked = {"--verifier": settings.verifier, "--max-prompts": settings.max_prompts, "--answers": settings.answers}
    for option, value in asked.items():
        if there and value and option != there:
            raise StartupError(f"{option} has no effect with {there}; leave one of them out")


def _readings(settings: BootstrapSettings, target: Target, recipe: Recipe, work: Path) -> Readings:
    wanted = recipe.wanted(target, making_of(settings))
    if settings.readings:
        folders = [Path(part.strip()) for part in settings.readings.split(",") if part.strip()]
        parts = [Shards(folder, READINGS) for folder in folders]
        for folder, part in zip(folders, parts, strict=True):
            check_readings(folder, part.origin, target, wanted.layers if wanted else ())
            check_alike(folder, part.origin, parts[0].origin)
        return Together(parts)
    answers = settings.answers or _answered(settings, target, work / "answers")
    if wanted is None:
        return Unread(Shards(answers, ANSWERS))
    return read_all(target, answers, work / "readings", wanted)


def _answered(settings: BootstrapSettings, target: Target, answers: Path) -> Path:
    prompts = mixed(read_prompts(settings.prompts, sources_of(settings)))
    prompts = prompts[: settings.max_prompts or None]
    asking = Asking(max_tokens=settings.max_tokens, max_prompt_tokens=settings.max_prompt_tokens)
    log.info("answers", prompts=len(prompts), folder=str(answers))
    if settings.verifier:
        asyncio.run(ask_all(target, prompts, answers, asking, settings.verifier, settings))
    else:
        answer_all(target, prompts, answers, asking)
    return answers


def check_readings(folder: Path, origin: Origin, target: Target, layers: tuple[int, ...]) -> None:
    """Raises StartupError: they are another target's, or without the hidden states that the recipe wants."""
    for name, own in (("tokenizer_hash", target.tokenizer_hash), ("vocab_size", target.vocab_size)):
        if origin.get(name) != own:
            raise StartupError(
                f"--readings {folder}: {name} is {origin.get(name)!s:.20}, that of {target.name} is {own!s:.20}; "
                "take readings of this target"
            )
    if layers and tuple(origin["layers"]) != layers:
        raise StartupError(
            f"--readings {folder}: hidden states are of layers {origin['layers']}, the recipe wants {list(layers)}; "
            "leave the option out to have them made"
        )


def check_alike(folder: Path, origin: Origin, first: Origin) -> None:
    """Raises StartupError: they can't be learned from together with those of the first folder."""
    for name in ("layers", "top_k"):
        if origin[name] != first[name]:
            raise StartupError(
                f"--readings {folder}: {name} is {origin[name]}, in the first folder {first[name]}; read them alike"
            )
