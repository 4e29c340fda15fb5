"""What a feature head learns: the target's next-token distributions, at each depth of drafts all over its answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from paceline.trainer.models.block import scaled
from paceline.trainer.models.feature_head import FeatureHead, FeatureHeadShape
from paceline.trainer.training.borrowing import Borrowed, side_by_side
from paceline.trainer.training.cut_loss import Side, cut_loss
from paceline.trainer.training.loop import Loss
from paceline.trainer.training.unroll import Texts, rows_at, unroll

SORTED_TOGETHER = 16  # batches whose texts are sorted by length, so that little is padding


@dataclass(frozen=True, slots=True, eq=False)
class HeadText:
    """One prompt's end and the target's answer to it; n positions that follow one another.

    Attributes:
        ids: [n] in the head's vocabulary; vocab_size is any other token.
        first: position of ids[0].
        features: [n, num_features * target_hidden_size] bfloat16.
        answer: index of the answer's first token, at least 2: the row before it needs features before it.
        borrowed: tokens of ids above vocab_size; None if the head borrows none.
    """

    ids: Tensor
    first: int
    features: Tensor
    answer: int
    borrowed: Borrowed | None = None

    @property
    def starts(self) -> range:
        """Rows at which a draft of answer tokens may begin: row i is that of position first + i + 1, whose features
        before it are known; the last one that has a next token is n - 3."""
        return range(self.answer - 2, len(self.ids) - 2)


class Teacher(nn.Module):
    """The target's last norm and head, for the head's vocabulary; gives its logits from its last layer's features."""

    weight: Tensor
    norm: Tensor

    def __init__(self, weight: Tensor, norm: Tensor, epsilon: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("norm", norm)
        self.epsilon = epsilon

    @torch.no_grad()
    def normed(self, features: Tensor) -> Tensor:
        """What is multiplied by embeddings to have logits, from features whose last layer is the target's last."""
        last = features[..., -self.norm.shape[0] :].to(self.weight.dtype)
        return scaled(last, self.epsilon) * self.norm

    @torch.no_grad()
    def forward(self, features: Tensor) -> Tensor:
        """[..., vocab_size]."""
        return nn.functional.linear(self.normed(features), self.weight)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadObjective:
    """What is asked of a head.

    Attributes:
        depth: rows of a draft.
        shallow_steps: steps of the loop, the first, in which drafts are one row deep: that teaches most of what deeper
            ones need, for a fraction of the work.
        depth_weight: by which each row counts less than the one before (EAGLE-3: 0.8).
        greedy_share: of the loss that asks for the target's best token; the rest asks for its distribution.
        batch_starts: drafts in a batch, about.
        share: of an answer's places at which a draft begins, if it is deep: neighbours teach much the same.
    """

    depth: int = 4
    shallow_steps: int = 0
    depth_weight: float = 0.8
    greedy_share: float = 0.5
    batch_starts: int = 1024
    share: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Drafts:
    """Drafts of so many rows that begin at some rows of a text, [S]."""

    text: HeadText
    starts: Tensor
    depth: int


class HeadTask:
    """`loop.Task` of fitting a head to texts, in an order that only the seed determines."""

    def __init__(
        self,
        name: str,
        head: FeatureHead,
        teacher: Teacher,
        texts: Sequence[HeadText],
        objective: HeadObjective,
        seed: int = 0,
    ) -> None:
        if not texts:
            raise ValueError("there are no texts to learn from")
        self.name = name
        self._head, self._teacher, self._texts, self._objective, self._seed = head, teacher, texts, objective, seed
        self._sizes = np.array([len(text.starts) for text in texts])
        self._plan: list[list[int]] = []
        self._num_epochs = 0

    def batch(self, step: int) -> list[Drafts]:
        while len(self._plan) <= step:
            self._plan_epoch()
        chance = np.random.default_rng((self._seed, 1, step))
        share, depth = self._stage(step)
        return [self._drafts(self._texts[index], share, depth, chance) for index in self._plan[step]]

    def loss(self, examples: Sequence[Drafts]) -> Loss:
        """Cross-entropy to the target, over those rows of drafts that serving could get to: all tokens of the draft,
        and the one that comes next, are in the head's vocabulary, or were known where the draft began."""
        head, objective = self._head, self._objective
        texts, next_ids, states, borrowed = _padded(examples, head.shape)
        known = borrowed.known(texts.starts)
        since = borrowed.since_of(next_ids, head.shape.vocab_size)
        alive = pad_sequence([drafts.starts >= 0 for drafts in examples], batch_first=True)
        taught = self._teacher.normed(states)
        total, weight = next_ids.new_zeros((), dtype=torch.float32), 0.0
        for step, hidden in enumerate(unroll(head, texts, examples[0].depth)):
            at = (texts.starts + step).clamp(max=next_ids.shape[1] - 1)
            alive = alive & (since.gather(1, at) <= texts.starts)
            each = torch.arange(len(at))[:, None].expand_as(at)[alive], at[alive]
            own = _side(head.normed(hidden), head.embed_tokens.weight[:-1], borrowed, known, alive)
            goal = _side(rows_at(taught, at), self._teacher.weight, borrowed, known, alive)
            share = objective.depth_weight**step
            total = total + share * cut_loss(own, goal, next_ids[each], objective.greedy_share)
            weight += share * int(alive.sum())
        return Loss(total, weight)

    def _stage(self, step: int) -> tuple[float, int]:
        """Share of places at which drafts begin, and their depth."""
        objective = self._objective
        return (1.0, 1) if step < objective.shallow_steps else (objective.share, objective.depth)

    def _plan_epoch(self) -> None:
        """Adds batches in which each text comes once; the shallow stage may end before they do."""
        done, shallow_steps = len(self._plan), self._objective.shallow_steps
        chance = np.random.default_rng((self._seed, 0, self._num_epochs))
        epoch = batches(self._sizes, round(self._objective.batch_starts / self._stage(done)[0]), chance)
        self._plan += epoch[: shallow_steps - done] if done < shallow_steps else epoch
        self._num_epochs += 1

    def _drafts(self, text: HeadText, share: float, depth: int, chance: np.random.Generator) -> Drafts:
        starts = chance.permutation(text.starts)[: math.ceil(share * len(text.starts))]
        return Drafts(text, torch.from_numpy(np.sort(starts)), depth)


def _side(normed: Tensor, weight: Tensor, borrowed: Borrowed, known: Tensor, alive: Tensor) -> Side:
    """Of those rows [B, S, width] that are alive."""
    logits = borrowed.logits(normed).masked_fill(~known, -torch.inf)
    return Side(normed[alive], weight, logits[alive])


def batches(sizes: npt.NDArray[np.int64], batch_size: int, chance: np.random.Generator) -> list[list[int]]:
    """Every index once, in batches whose sizes add up to about batch_size, of texts of like size, in any order."""
    order, found = chance.permutation(len(sizes)), []
    num_pools = max(1, round(int(sizes.sum()) / (batch_size * SORTED_TOGETHER)))
    for pool in np.array_split(order, num_pools):
        pool = pool[np.argsort(sizes[pool], kind="stable")]
        number = (np.cumsum(sizes[pool]) - 1) // batch_size
        found += [pool[number == place].tolist() for place in np.unique(number)]
    return [found[place] for place in chance.permutation(len(found))]


def _padded(examples: Sequence[Drafts], shape: FeatureHeadShape) -> tuple[Texts, Tensor, Tensor, Borrowed]:
    """Rows of the examples; each row's next token [B, T]; the target's features at, not before, each row; and what the
    texts have beyond the vocabulary."""
    other = shape.vocab_size
    ids = pad_sequence([drafts.text.ids for drafts in examples], batch_first=True, padding_value=other)
    features = pad_sequence([drafts.text.features for drafts in examples], batch_first=True).float()
    starts = pad_sequence([drafts.starts for drafts in examples], batch_first=True)
    first = torch.tensor([[drafts.text.first + 1] for drafts in examples])
    rows = torch.arange(ids.shape[1] - 1)
    next_ids = nn.functional.pad(ids[:, 2:], (0, 1), value=other)
    borrowed = side_by_side([drafts.text.borrowed for drafts in examples], shape.block.width)
    read = borrowed.read(ids[:, 1:], other)
    return Texts(ids[:, 1:], first + rows, features[:, :-1], starts, read), next_ids, features[:, 1:], borrowed
