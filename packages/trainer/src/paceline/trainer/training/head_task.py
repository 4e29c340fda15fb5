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
from paceline.trainer.models.feature_head import FeatureHead
from paceline.trainer.training.loop import Loss
from paceline.trainer.training.unroll import Texts, unroll

SORTED_TOGETHER = 16  # batches whose texts are sorted by length, so that little is padding


@dataclass(frozen=True, slots=True, eq=False)
class HeadText:
    """One prompt's end and the target's answer to it; n positions that follow one another.

    Attributes:
        ids: [n] in the head's vocabulary; vocab_size is any other token.
        first: position of ids[0].
        features: [n, num_features * target_hidden_size] bfloat16.
        answer: index of the answer's first token, at least 2: the row before it needs features before it.
    """

    ids: Tensor
    first: int
    features: Tensor
    answer: int

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
    def forward(self, features: Tensor) -> Tensor:
        """[..., vocab_size] from features whose last layer is the target's last."""
        last = features[..., -self.norm.shape[0] :].to(self.weight.dtype)
        return nn.functional.linear(scaled(last, self.epsilon) * self.norm, self.weight)


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
        and the one that comes next, are in the head's vocabulary."""
        head, objective = self._head, self._objective
        texts, next_ids, states = _padded(examples, head.shape.vocab_size)
        known = next_ids < head.shape.vocab_size
        alive = pad_sequence([drafts.starts >= 0 for drafts in examples], batch_first=True)
        visits = []
        wanted = torch.zeros_like(known)
        depth = examples[0].depth
        for step in range(depth):
            at = (texts.starts + step).clamp(max=known.shape[1] - 1)
            alive = alive & known.gather(1, at)
            visits.append((at, alive))
            wanted[alive.nonzero(as_tuple=True)[0], at[alive]] = True
        goals = self._goals(states[wanted], next_ids[wanted])
        goal_of = (wanted.flatten().cumsum(0) - 1).view_as(wanted)
        total, weight = next_ids.new_zeros((), dtype=torch.float32), 0.0
        for step, ((at, alive), hidden) in enumerate(zip(visits, unroll(head, texts, depth), strict=True)):
            log_probs = head.logits(hidden[alive]).log_softmax(-1)
            share = objective.depth_weight**step
            total = total - share * (goals[goal_of.gather(1, at)[alive]] * log_probs).sum()
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

    def _goals(self, states: Tensor, next_ids: Tensor) -> Tensor:
        """What is to be learnt for rows with these features after them: distributions [n, vocab_size]."""
        share = self._objective.greedy_share
        goals = (1 - share) * self._teacher(states).softmax(-1)
        return goals.scatter_add_(1, next_ids[:, None], torch.full_like(goals[:, :1], share))


def batches(sizes: npt.NDArray[np.int64], batch_size: int, chance: np.random.Generator) -> list[list[int]]:
    """Every index once, in batches whose sizes add up to about batch_size, of texts of like size, in any order."""
    order, found = chance.permutation(len(sizes)), []
    num_pools = max(1, round(int(sizes.sum()) / (batch_size * SORTED_TOGETHER)))
    for pool in np.array_split(order, num_pools):
        pool = pool[np.argsort(sizes[pool], kind="stable")]
        number = (np.cumsum(sizes[pool]) - 1) // batch_size
        found += [pool[number == place].tolist() for place in np.unique(number)]
    return [found[place] for place in chance.permutation(len(found))]


def _padded(examples: Sequence[Drafts], other: int) -> tuple[Texts, Tensor, Tensor]:
    """Rows of the examples; each row's next token [B, T]; and the target's features at, not before, each row."""
    ids = pad_sequence([drafts.text.ids for drafts in examples], batch_first=True, padding_value=other)
    features = pad_sequence([drafts.text.features for drafts in examples], batch_first=True).float()
    starts = pad_sequence([drafts.starts for drafts in examples], batch_first=True)
    first = torch.tensor([[drafts.text.first + 1] for drafts in examples])
    rows = torch.arange(ids.shape[1] - 1)
    next_ids = nn.functional.pad(ids[:, 2:], (0, 1), value=other)
    return Texts(ids[:, 1:], first + rows, features[:, :-1], starts), next_ids, features[:, 1:]
