"""Lessons as tensors that a student can be run on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paceline.trainer.learning.alignment import NONE, Aligned, Ids, align, align_cut, map_tokens
from paceline.trainer.learning.objectives.hybrid import LAMBDA, HybridTargets
from paceline.trainer.online.lessons import Lesson
from paceline.wire.vocabulary.base import Vocabulary

MAX_CONTEXT = 192  # of the student's tokens before a lesson: what a small model can make use of
MAX_ROWS = 512  # of a lesson's own


@dataclass(frozen=True, slots=True)
class Sample:
    """One lesson in a student's tokens; of its n learned tokens each is predicted from those before it.

    Attributes:
        ids: tokens [c + n], c at least 1.
        top_ids, top_log_probs: the target's best tokens, in the student's vocabulary, at each learned token [n, k];
            NONE and -inf where it has none, and where no target token begins.
        begins: a target token begins there [n].
        spells: it is that target token, whole [n].
        accepted: the target token that it belongs to had been drafted [n].
    """

    ids: Ids
    top_ids: Ids
    top_log_probs: npt.NDArray[np.float32]
    begins: npt.NDArray[np.bool_]
    spells: npt.NDArray[np.bool_]
    accepted: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Learned tokens."""
        return len(self.begins)

    @property
    def first(self) -> int:
        """Index in `ids` of the first learned token."""
        return len(self.ids) - len(self)


class Sampler:
    """Makes samples for one student of one target.

    Args:
        target: the target's vocabulary.
        target_size: ids of the target are below it; may be more than its tokenizer has.
        student: the student's own vocabulary, or
        cut: the target's token for each of the student's [vocab_size], if it is cut from the target's.
    """

    def __init__(
        self, target: Vocabulary, target_size: int, student: Vocabulary | None = None, cut: Ids | None = None
    ) -> None:
        if (student is None) == (cut is None):
            raise ValueError("a student has a vocabulary of its own, or one that is cut from the target's")
        self._target, self._student = target, student
        self.vocab_size = len(cut) if cut is not None else student.size if student is not None else 0
        self._map = _inverse(cut, target_size) if cut is not None else map_tokens(target, _given(student), target_size)

    def sample(self, lesson: Lesson) -> Sample | None:
        """None if there is nothing in it to learn."""
        aligned = self._aligned(lesson)
        first = aligned.first if aligned.first else 1  # a first token has nothing to be predicted from
        skipped = first - aligned.first
        count = min(len(aligned) - skipped, MAX_ROWS)
        if count < 1:
            return None
        rows = slice(skipped, skipped + count)
        source = aligned.source[rows]
        begins = source != NONE
        top_ids, top_log_probs = self._top(lesson, source)
        return Sample(
            ids=aligned.ids[max(0, first - MAX_CONTEXT) : first + count],
            top_ids=top_ids,
            top_log_probs=top_log_probs,
            begins=begins,
            spells=aligned.spells[rows],
            accepted=lesson.accepted[np.maximum.accumulate(np.maximum(source, 0))],
        )

    def _aligned(self, lesson: Lesson) -> Aligned:
        if self._student is None:
            return align_cut(self._map, self.vocab_size, lesson.context, lesson.tokens)
        return align(self._target, self._student, lesson.context, lesson.tokens)

    def _top(self, lesson: Lesson, source: Ids) -> tuple[Ids, npt.NDArray[np.float32]]:
        top_ids = np.where((source != NONE)[:, None], self._map[lesson.top_ids[source]], NONE)
        top_log_probs = np.where(top_ids != NONE, lesson.top_log_probs[source], -np.inf)
        return top_ids, top_log_probs.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Batch:
    """Samples side by side.

    Attributes:
        ids: [B, T], padded behind with 0.
        rows, columns: where the learned tokens are predicted from [n].
        targets: of those, in the order of the samples.
        accepted: bool [n].
        starts: where each sample begins among them [B].
    """

    ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: HybridTargets
    accepted: Tensor
    starts: Tensor


def collate(samples: Sequence[Sample], vocab_size: int, device: torch.device | None = None) -> Batch:
    """At least one sample."""
    length = max(len(sample.ids) for sample in samples)
    ids = np.zeros((len(samples), length), np.int64)
    for index, sample in enumerate(samples):
        ids[index, : len(sample.ids)] = sample.ids
    rows = np.concatenate([np.full(len(sample), index) for index, sample in enumerate(samples)])
    columns = np.concatenate([np.arange(sample.first - 1, len(sample.ids) - 1) for sample in samples])
    tokens = np.concatenate([sample.ids[sample.first :] for sample in samples])
    tokens = np.where(tokens < vocab_size, tokens, NONE)  # the id that stands for all others can't be said
    begins = np.concatenate([sample.begins for sample in samples])
    spells = np.concatenate([sample.spells for sample in samples])
    lengths = np.array([len(sample) for sample in samples])
    targets = HybridTargets(
        tokens=torch.from_numpy(tokens),
        top_ids=torch.from_numpy(np.concatenate([sample.top_ids for sample in samples])),
        top_log_probs=torch.from_numpy(np.concatenate([sample.top_log_probs for sample in samples])),
        temperature=1.0,
        vocab_size=vocab_size,
        begins=torch.from_numpy(begins),
        # What the student would write in other tokens than the target is learned from the text itself.
        run_weights=torch.from_numpy(np.where(spells, 0.0, LAMBDA).astype(np.float32)),
    )
    device = device or torch.device("cpu")
    return Batch(
        ids=torch.from_numpy(ids).to(device),
        rows=torch.from_numpy(rows).to(device),
        columns=torch.from_numpy(columns).to(device),
        targets=targets.to(device),
        accepted=torch.from_numpy(np.concatenate([sample.accepted for sample in samples])).to(device),
        starts=torch.from_numpy(np.cumsum(lengths) - lengths).to(device),
    )


def _inverse(cut: Ids, size: int) -> Ids:
    found = np.full(size, NONE, np.int64)
    found[cut] = np.arange(len(cut))
    return found


def _given(student: Vocabulary | None) -> Vocabulary:
    assert student is not None
    return student
