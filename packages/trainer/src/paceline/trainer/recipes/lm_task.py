"""What a small language model learns from texts: their tokens, or what the target thought of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from paceline.trainer.learning.chunked import chunked_loss
from paceline.trainer.learning.objectives import OBJECTIVES
from paceline.trainer.learning.objectives.hybrid import LAMBDA, HybridTargets
from paceline.trainer.learning.targets import UNSAYABLE
from paceline.trainer.models.decoder import Decoder
from paceline.trainer.recipes.lm_text import LmText
from paceline.trainer.training.head_task import batches
from paceline.trainer.training.loop import Loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How a model learns.

    Attributes:
        objective: a name in OBJECTIVES.
        whole_text: every token counts, those of prompts too, for pre-training; else what the target said.
        batch_tokens: of a step, about.
        seed: of the order of texts.
    """

    objective: str
    whole_text: bool = False
    batch_tokens: int = 4096
    seed: int = 0


class LmTask:
    """`loop.Task` of fitting a decoder to texts, in an order that only the seed determines."""

    def __init__(self, name: str, decoder: Decoder, texts: Sequence[LmText], learning: Learning) -> None:
        self.name = name
        self._decoder, self._texts, self._learning = decoder, texts, learning
        self._sizes = np.array([len(text) for text in texts], np.int64)
        self._plan: list[list[int]] = []
        self._num_epochs = 0

    def batch(self, step: int) -> list[LmText]:
        while len(self._plan) <= step:
            chance = np.random.default_rng((self._learning.seed, self._num_epochs))
            self._plan += batches(self._sizes, self._learning.batch_tokens, chance)
            self._num_epochs += 1
        return [self._texts[index] for index in self._plan[step]]

    def loss(self, examples: Sequence[LmText]) -> Loss:
        """Over rows that have something to learn. Rows of a step weigh the same, whatever text they are of."""
        decoder = self._decoder
        device = decoder.head_weight.device
        ids = pad_sequence([torch.from_numpy(text.ids).long() for text in examples], batch_first=True)
        hidden = decoder(ids.to(device))
        parts = [_rows(text, self._learning.whole_text) for text in examples]
        wanted = torch.cat([row + index * ids.shape[1] for index, row in enumerate(parts)]).to(device)
        targets = targets_of(examples, parts, decoder.shape.vocab_size).to(device)
        objective = OBJECTIVES[self._learning.objective]
        losses = chunked_loss(hidden.flatten(0, 1)[wanted], decoder.head_weight, targets, objective)
        return Loss(losses.sum(), float(len(wanted)))


def targets_of(texts: Sequence[LmText], rows: Sequence[Tensor], vocab_size: int) -> HybridTargets:
    """What these rows of texts are to say; `rows` holds each text's, in order. Raises as Targets does."""
    width = max((text.top_ids.shape[1] for text in texts), default=0)
    parts = [_row_targets(text, row.numpy(), width, vocab_size) for text, row in zip(texts, rows, strict=True)]
    tokens, top_ids, top_log_probs, begins, weights = (
        torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True)
    )
    return HybridTargets(
        tokens=tokens,
        top_ids=top_ids,
        top_log_probs=top_log_probs,
        temperature=1.0,
        vocab_size=vocab_size,
        begins=begins,
        run_weights=weights,
    )


Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _row_targets(text: LmText, rows: np.ndarray, width: int, vocab_size: int) -> Columns:
    """tokens, top_ids, top_log_probs, begins and run_weights of some rows of a text."""
    tokens = np.full(len(text), UNSAYABLE, np.int64)
    tokens[:-1] = np.where(text.ids[1:] < vocab_size, text.ids[1:], UNSAYABLE)
    top_ids = np.full((len(text), width), UNSAYABLE, np.int64)
    top_ids[text.top_rows, : text.top_ids.shape[1]] = text.top_ids
    top_log_probs = np.full((len(text), width), -np.inf, np.float32)
    top_log_probs[text.top_rows, : text.top_ids.shape[1]] = text.top_log_probs
    begins = np.zeros(len(text), bool)
    begins[text.top_rows] = True
    weights = np.zeros(len(text), np.float32)
    weights[text.run_rows] = LAMBDA
    return tokens[rows], top_ids[rows], top_log_probs[rows], begins[rows], weights[rows]


def _rows(text: LmText, whole_text: bool) -> Tensor:
    """The rows that have something to learn."""
    if whole_text:
        return torch.arange(len(text) - 1)
    return torch.from_numpy(np.union1d(text.top_rows, text.run_rows)).long()


def can_be_learnt(text: LmText) -> bool:
    """Whether a text has a row that says something."""
    return len(text) > 1 and len(text.top_rows) > 0
