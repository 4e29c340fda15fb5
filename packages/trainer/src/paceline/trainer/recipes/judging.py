"""How good a drafter is on answers that it hasn't been trained on, worked out from where the target's tokens rank.

The drafter is asked at every place of the target's answer, given the target's own text before it: that is what a
verifier gives it, too. Tokens that begin within one of the drafter's count as missed; a drafter that serves would
encode the text anew there and might still say them, so figures of drafters with a vocabulary of their own are a
little low.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from paceline.trainer.models.decoder import Decoder
from paceline.trainer.recipes.lm_text import LmText

MISSED = 1 << 30  # rank of a token that can't be said
DEPTH, SIBLINGS = 5, 3  # of the tree: the drafter's best path, and the next best of each place: 15 nodes
CHAIN = 5

Ranks = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Judgement:
    """Attributes:
    acceptance: share of the target's tokens that were the drafter's first choice.
    tokens_per_step_chain: with CHAIN tokens drafted a step, the verifier's own token included.
    tokens_per_step_tree: with a tree of DEPTH times SIBLINGS tokens.
    num_tokens: of the target's, that this is measured on.
    """

    acceptance: float
    tokens_per_step_chain: float
    tokens_per_step_tree: float
    num_tokens: int

    def metrics(self) -> dict[str, float]:
        """As a manifest names them."""
        return {
            "acceptance": self.acceptance,
            "tokens_per_step_chain": self.tokens_per_step_chain,
            "tokens_per_step_tree": self.tokens_per_step_tree,
            "held_out_tokens": float(self.num_tokens),
        }


def judge(ranks: Iterable[Ranks]) -> Judgement:
    """From the ranks of each answer's tokens: 0 is the drafter's first choice."""
    answers = [each for each in ranks if len(each)]
    num_tokens = sum(map(len, answers))
    if not num_tokens:
        return Judgement(0.0, 1.0, 1.0, 0)
    return Judgement(
        sum(int((each == 0).sum()) for each in answers) / num_tokens,
        num_tokens / sum(num_steps(each, CHAIN, 1) for each in answers),
        num_tokens / sum(num_steps(each, DEPTH, SIBLINGS) for each in answers),
        num_tokens,
    )


def num_steps(ranks: Sequence[int] | Ranks, depth: int, siblings: int) -> int:
    """Steps of a verifier for an answer. Each step accepts first choices, up to `depth`; instead of the one that is
    wrong it accepts a sibling, if that is right; and it adds a token of its own."""
    at, steps = 0, 0
    while at < len(ranks):
        drafted = 0
        while drafted < depth and at + drafted < len(ranks) and ranks[at + drafted] == 0:
            drafted += 1
        if drafted < depth and at + drafted < len(ranks) and ranks[at + drafted] < siblings:
            drafted += 1
        at += drafted + 1
        steps += 1
    return steps


@torch.no_grad()
def ranks_of(decoder: Decoder, text: LmText) -> Ranks:
    """The rank of each of the answer's tokens, MISSED if the drafter can't say it. A run ranks first or not at all: its
    parts would have to be first choices all of them."""
    device = decoder.head_weight.device
    hidden = decoder(torch.from_numpy(text.ids).long()[None].to(device))[0]
    own = _ranks(hidden, decoder.head_weight, text)
    found = np.full(text.num_said, MISSED, np.int64)
    for token in np.unique(text.said_token).tolist():
        parts = own[text.said_token == token]
        found[token] = parts[0] if len(parts) == 1 else (0 if (parts == 0).all() else MISSED)
    return found


def _ranks(hidden: Tensor, head: Tensor, text: LmText) -> Ranks:
    rows = torch.from_numpy(text.said_row).long().to(hidden.device)
    ids = torch.from_numpy(text.said_id).long().to(hidden.device)
    found = []
    for some, wanted in zip(rows.split(256), ids.split(256), strict=True):
        logits = hidden[some] @ head.T
        found.append((logits > logits.gather(-1, wanted[:, None])).sum(-1))
    return torch.cat(found).cpu().numpy() if found else np.zeros(0, np.int64)
