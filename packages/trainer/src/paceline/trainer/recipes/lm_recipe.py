"""How the recipes of small language models go on once they have their texts: pre-train, distil, judge, write."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import structlog

from paceline.trainer.data.progress import WorkBar
from paceline.trainer.data.reading import Wanted
from paceline.trainer.data.rows import Reading
from paceline.trainer.data.target import Target
from paceline.trainer.models.comparison import Probe
from paceline.trainer.models.decoder import Decoder, DecoderShape
from paceline.trainer.models.graph import decoder_card
from paceline.trainer.models.revision import Vocabulary
from paceline.trainer.recipes.base import Job, Made, Making
from paceline.trainer.recipes.judging import Judgement, judge, ranks_of
from paceline.trainer.recipes.lm_task import Learning, LmTask, can_be_learnt
from paceline.trainer.recipes.lm_text import LmText, tail
from paceline.trainer.training.loop import LoopSettings, train
from paceline.wire.errors import out_of_range
from paceline.wire.settings import StartupError

log = structlog.get_logger()

WINDOW = 1024  # tokens of a text's end that are learnt together
HEAD_DIM = 64
TOP_K = 16
RULE, PRETRAIN_RATE, DISTIL_RATE = "muon", 0.02, 0.01
SMALLEST_RUN = 20  # steps
CHECKPOINT_EVERY = 100  # steps
WATCHED = 20  # held-out answers that the log has figures of
PROBE_TEXTS, PROBE_LENGTH = 8, 64


def wanted(target: Target, making: Making) -> Wanted | None:
    """Cross-entropy needs the tokens alone."""
    return None if making.objective == "ce" else Wanted(top_k=min(TOP_K, target.vocab_size))


def decoder_shape(making: Making, vocab_size: int, cut: bool) -> DecoderShape:
    """The default is 4 layers of 256: 5 million weights with 8,192 tokens. Raises OUT_OF_RANGE."""
    width = making.width or 256
    if width % HEAD_DIM:
        raise out_of_range("width", width, f"a multiple of {HEAD_DIM}")
    heads = width // HEAD_DIM
    return DecoderShape(
        vocab_size=vocab_size,
        width=width,
        num_layers=making.num_layers or 4,
        num_heads=heads,
        num_kv_heads=heads // 2 if heads % 2 == 0 else heads,
        head_dim=HEAD_DIM,
        intermediate=-(-8 * width // (3 * 32)) * 32,
        max_length=making.max_length,
        unknown=cut,
    )


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """To learn from, and held out."""

    train: Sequence[LmText]
    held_out: Sequence[LmText]


def texts_of(job: Job, told: Callable[[Reading], LmText]) -> Texts:
    """Raises StartupError if nothing is left to learn from."""
    learnt, held_out = job.split()
    with WorkBar("telling texts in the drafter's tokens", len(job.readings)) as bar:

        def all_of(readings: Iterable[Reading]) -> list[LmText]:
            found = []
            for reading in readings:
                text = tail(told(reading), WINDOW)
                bar.advance(1, len(text))
                if can_be_learnt(text):
                    found.append(text)
            return found

        texts = Texts(all_of(learnt), all_of(islice(held_out, job.making.max_judged)))
    if not texts.train:
        raise StartupError("--prompts: no answer is left to learn from; take more prompts or other --sources")
    return texts


def fit(job: Job, decoder: Decoder, texts: Texts, objective: str) -> Judgement:
    """Pre-trains on the texts as they are, distils on what the target thought, and judges."""
    making = job.making
    stages = (
        ("pretrain", Learning(objective="ce", whole_text=True, batch_tokens=making.batch_tokens, seed=making.seed)),
        ("distil", Learning(objective=objective, batch_tokens=making.batch_tokens, seed=making.seed + 1)),
    )
    epochs = {"pretrain": making.pretrain_epochs, "distil": making.epochs}
    rates = {"pretrain": making.learning_rate or PRETRAIN_RATE, "distil": making.learning_rate or DISTIL_RATE}
    watched = texts.held_out[:WATCHED]

    def watch(_step: int) -> Mapping[str, float]:
        return judge(ranks_of(decoder, text) for text in watched).metrics()

    after = ""
    for name, learning in stages:
        if epochs[name] == 0:
            continue
        num_steps = steps_of(texts.train, making.batch_tokens, epochs[name])
        told = f"{name} {learning} at {rates[name]:g} on {digest(texts.train)}{after}"  # a run that goes on is the same
        task = LmTask(told, decoder, texts.train, learning)
        settings = LoopSettings(
            num_steps=num_steps,
            learning_rate=rates[name],
            rule=RULE,
            warmup_steps=max(1, min(100, num_steps // 10)),
            checkpoint_every=CHECKPOINT_EVERY,
        )
        trained = train(decoder, task, settings, job.work / f"{name}-{learning.objective}", watch=watch)
        after = f" after {trained.num_steps} steps of {name}"
        log.info(name, steps=trained.num_steps, loss=round(trained.mean_loss, 4), rollbacks=trained.rollbacks)
    return judged(decoder, texts.held_out)


def judged(decoder: Decoder, texts: Sequence[LmText]) -> Judgement:
    """On all of these texts."""
    with WorkBar("judging", len(texts)) as bar:
        ranks = []
        for text in texts:
            ranks.append(ranks_of(decoder, text))
            bar.advance(1, text.num_said)
    return judge(ranks)


def made(decoder: Decoder, vocabulary: Vocabulary, texts: Texts, judgement: Judgement, tokens: str) -> Made:
    """What is to be written of a decoder; `tokens` says for people what its tokens are."""
    shape = decoder.shape
    return Made(
        module=decoder,
        card=decoder_card(shape, quantization="int8"),
        vocabulary=vocabulary,
        probe=_probe([*texts.held_out, *texts.train]),
        metrics=judgement.metrics(),
        summary=f"{shape.num_layers} layers of {shape.width}, {shape.vocab_size} {tokens}",
    )


def _probe(texts: Sequence[LmText]) -> Probe:
    """The ends of some texts."""
    length = min(PROBE_LENGTH, *(len(text) for text in texts[:PROBE_TEXTS]))
    return Probe(np.stack([text.ids[-length:].astype(np.int64) for text in texts[:PROBE_TEXTS]]))


def steps_of(texts: Sequence[LmText], batch_tokens: int, epochs: float) -> int:
    """Steps for so many passes over texts."""
    return max(SMALLEST_RUN, math.ceil(epochs * sum(map(len, texts)) / batch_tokens))


def digest(texts: Sequence[LmText]) -> str:
    """What tells these texts from others: a run must not go on with other ones."""
    whole = hashlib.sha256()
    for text in texts:
        whole.update(text.id.encode() + b"\0" + text.ids.tobytes())
    return whole.hexdigest()[:16]


def kept(path: Path, make: Callable[[], bytes]) -> bytes:
    """What an earlier run made, or what `make` gives now."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        new.write_bytes(make())
        new.replace(path)
    return path.read_bytes()
