"""Recipe `feature_head`: a head on the target's hidden states, trained on the target's own answers (EAGLE-3).

When to use it: verifiers tell the target's features, and there are some hundred thousand tokens of its answers. A head
of 9 million weights for a target of 135 million takes some hours on two cores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator

from paceline.trainer.data.prompts import is_held_out
from paceline.trainer.data.rows import Reading
from paceline.trainer.data.target import Target
from paceline.trainer.models.comparison import Probe
from paceline.trainer.models.feature_head import FeatureHead, FeatureHeadShape
from paceline.trainer.models.graph import feature_head_card
from paceline.trainer.models.revision import Written, read_module, read_vocabulary, write_revision
from paceline.trainer.recipes.base import Readings
from paceline.trainer.recipes.head_start import (
    HeadSize,
    Vocabulary,
    common_tokens,
    head_shape,
    make_teacher,
    start_head,
)
from paceline.trainer.recipes.simulate import TreeShape, acceptance, draft, tokens_per_step
from paceline.trainer.training.borrowing import borrow, side_by_side
from paceline.trainer.training.head_task import HeadObjective, HeadTask, HeadText
from paceline.trainer.training.loop import LoopSettings, Trained
from paceline.trainer.training.loop import train as fit
from paceline.v1 import trainer_pb2
from paceline.wire.errors import out_of_range
from paceline.wire.model_card import FeatureHeadCard
from paceline.wire.revision import unusable

PROBE_TEXTS, PROBE_LENGTH = 4, 64
WATCHED = 60  # held-out answers that are looked at again and again while it learns


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRecipe:
    """How a head is made.

    Attributes:
        size: of the head.
        objective: what it learns.
        loop: for how long, and how fast.
        held_out: share of prompts that it is measured on, and not trained.
        seed: of the order of texts, and of what is drawn at the start.
    """

    size: HeadSize = field(default_factory=HeadSize)
    objective: HeadObjective = field(default_factory=lambda: HeadObjective(shallow_steps=1000))
    loop: LoopSettings = field(
        default_factory=lambda: LoopSettings(num_steps=2000, learning_rate=0.03, rule="muon", ema_decay=0.99)
    )
    held_out: float = 0.03
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a head is worth on answers that it was not trained on.

    Attributes:
        acceptance: share of best tokens that are right at each depth of a draft, given that those before are.
        tokens_per_step: that a verifier would commit with its trees, its own token included.
    """

    acceptance: tuple[float, ...]
    tokens_per_step: float

    def metrics(self) -> dict[str, float]:
        """As a manifest has them."""
        depths = {f"acceptance_{depth}": share for depth, share in enumerate(self.acceptance, 1)}
        return {"tokens_per_step": self.tokens_per_step, **depths}


@dataclass(frozen=True, slots=True)
class Made:
    """A trained head, and what it takes to hand it out.

    Attributes:
        layers: of the target, whose features it takes.
        window: positions that it has looked at at most.
        held_out: texts that it was not trained on.
        borrows: what its vocabulary lacks it takes from the text.
    """

    head: FeatureHead
    vocabulary: Vocabulary
    layers: tuple[int, ...]
    window: int
    held_out: Sequence[HeadText]
    trained: Trained
    borrows: bool


@dataclass(frozen=True, slots=True)
class Parent:
    """A head to train on from.

    Attributes:
        revision_id: that it is.
        layers: of the target, whose features it takes.
    """

    revision_id: str
    head: FeatureHead
    vocabulary: Vocabulary
    layers: tuple[int, ...]


def read_parent(folder: Path, target: Target) -> Parent:
    """Raises PacelineError: UNUSABLE_REVISION: no head, or another target's; others as `read_module` raises them."""
    head, revision = read_module(folder)
    if not isinstance(head, FeatureHead) or not isinstance(revision.card, FeatureHeadCard):
        raise unusable("--parent", f"a {revision.card.KIND}", "a feature head")
    if revision.manifest.tokenizer_hash != target.tokenizer_hash:
        raise unusable("--parent", f"made for a target with another tokenizer than {target.name}", "one of this target")
    vocabulary = np.array(read_vocabulary(revision), np.uint32)
    expected = head_shape(target, head.shape.num_features, len(vocabulary), head.shape.block.intermediate)
    if head.shape != expected or vocabulary.max() >= target.vocab_size:
        raise unusable("--parent", f"of another shape than heads of {target.name}", "one of this target")
    head.embed_tokens.weight.requires_grad_(False)
    return Parent(revision.revision_id, head, vocabulary, tuple(revision.card.feature_layers))


def train(
    target: Target,
    readings: Readings,
    recipe: HeadRecipe,
    folder: Path,
    accelerator: Accelerator | None = None,
    parent: Parent | None = None,
) -> Made:
    """Trains a head on readings; goes on from the newest state in the folder.

    Args:
        readings: with features of two or more layers, the last of them the target's last, which teaches.
        parent: where to begin, instead of with drawn weights; its size is kept, whatever the recipe says.

    Raises:
        PacelineError: OUT_OF_RANGE: of other layers, or too few. INTERNAL: the loss keeps diverging.
        StartupError: the folder is another run's.
    """
    layers = tuple(int(layer) for layer in readings.origin["layers"])
    if not layers or layers[-1] != target.num_layers:
        raise out_of_range("layers", layers, f"layers of the target that end with its last, {target.num_layers}")
    if parent and parent.layers != layers:
        raise out_of_range("layers", layers, f"those of --parent, {parent.layers}")
    size = recipe.size
    vocabulary = (
        parent.vocabulary if parent else common_tokens((row.answer for row in readings), target, size.vocab_size)
    )
    learnt, held_out = split_texts(readings, vocabulary, target, recipe.held_out)
    if not learnt or not held_out:
        raise out_of_range("answers", len(learnt), f"more: {recipe.held_out:.0%} of them are held out")
    if parent:
        head, begun = parent.head, f"revision {parent.revision_id}"
    else:
        head, begun = FeatureHead(head_shape(target, len(layers), len(vocabulary), size.intermediate)), str(size)
        start_head(head, target, vocabulary, learnt, recipe.seed)
    name = f"feature_head on {readings.sha256()}: {begun}, {recipe.objective}, seed {recipe.seed}"
    task = HeadTask(name, head, make_teacher(target, vocabulary), learnt, recipe.objective, recipe.seed)

    def watch(step: int) -> Mapping[str, float]:
        shares = acceptance(head, held_out[:WATCHED], recipe.objective.depth)
        return {f"acceptance_{depth}": share for depth, share in enumerate(shares, 1)}

    trained = fit(head, task, recipe.loop, folder, accelerator=accelerator, watch=watch)
    window = max(len(text.ids) for text in learnt)
    return Made(head, vocabulary, layers, window, held_out, trained, learnt[0].borrowed is not None)


def split_texts(
    readings: Iterable[Reading], vocabulary: Vocabulary, target: Target, held_out: float
) -> tuple[list[HeadText], list[HeadText]]:
    """Texts to learn from and texts to measure on, as a head sees them; answers without a place to draft at are left
    out."""
    own = np.full(target.vocab_size, len(vocabulary), np.int64)
    own[vocabulary] = np.arange(len(vocabulary))
    embedding = target.embedding.float() if target.is_tied else None
    learnt: list[HeadText] = []
    kept: list[HeadText] = []
    for reading in readings:
        text = _text(reading, own, len(vocabulary), embedding)
        if text.answer >= 2 and len(text.starts):
            (kept if is_held_out(reading.answer.id, held_out) else learnt).append(text)
    return learnt, kept


def _text(reading: Reading, own: npt.NDArray[np.int64], vocab_size: int, embedding: torch.Tensor | None) -> HeadText:
    answer, first = reading.answer, reading.first
    target_ids = np.concatenate((answer.prompt_ids, answer.answer_ids))[first:]
    ids, borrowed = own[target_ids], None
    if embedding is not None:
        ids, borrowed = borrow(target_ids.astype(np.int64), ids, vocab_size, embedding)
    features = torch.from_numpy(reading.features).view(torch.bfloat16).flatten(1)
    return HeadText(torch.from_numpy(ids), first, features, len(answer.prompt_ids) - first, borrowed)


def evaluate(head: FeatureHead, texts: Sequence[HeadText], depth: int, shape: TreeShape | None = None) -> Evaluation:
    """Measures a head on texts. Trees are drafted at every place, so it takes a second or so for each."""
    tokens = steps = 0
    for text in texts:
        committed, taken = tokens_per_step(text, draft(head, text, shape or TreeShape()))
        tokens, steps = tokens + committed, steps + taken
    return Evaluation(acceptance(head, texts, depth), tokens / max(steps, 1))


def publish(made: Made, target: Target, manifest: trainer_pb2.RevisionManifest, out: Path, depth: int = 5) -> Written:
    """Writes the head as a revision, int8, with its weights in bfloat16 to train on from.

    Args:
        manifest: drafter, command, data, parent; what the target is and what was measured is set here.

    Raises PacelineError (UNUSABLE_REVISION) and OSError, as `write_revision` does.
    """
    card = feature_head_card(
        made.head.shape,
        feature_layers=made.layers,
        max_length=target.context_length,
        window=made.window,
        quantization="int8",
        borrows=made.borrows,
    )
    stamped = trainer_pb2.RevisionManifest()
    stamped.CopyFrom(manifest)
    stamped.tokenizer_hash = target.tokenizer_hash
    for metric, value in evaluate(made.head, made.held_out, depth).metrics().items():
        stamped.metrics[metric] = value
    vocabulary = made.vocabulary.tolist()
    return write_revision(
        out, made.head, card, vocabulary, stamped, weights="bfloat16", probe=probe(made.held_out, made.head.shape)
    )


def probe(texts: Sequence[HeadText], shape: FeatureHeadShape) -> Probe:
    """Real text to compare the graph on: the ends of a few texts."""
    longest = sorted(texts, key=lambda text: -len(text.ids))[:PROBE_TEXTS]
    length = min(PROBE_LENGTH, len(longest[-1].ids) - 1)
    ids = torch.stack([text.ids[-length:] for text in longest])
    features = torch.stack([text.features[-length - 1 : -1] for text in longest])
    others = side_by_side([text.borrowed for text in longest], shape.block.width).read(ids, shape.vocab_size)
    told = None if others is None else others.numpy()
    return Probe(ids.numpy(), features.float().numpy(), told)
