"""How much of a perfect draft model's drafts survives the way from its vocabulary to the target's.

The oracle knows the text that the target will write, and says it in its own tokens. So what is refused, or can't be
proposed, is the bridge's doing alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paceline.drafter.live_tree import ROOT as TREE_ROOT
from paceline.drafter.live_tree import LiveTree, Successors
from paceline.drafter.strategies.base import ROOT
from paceline.drafter.vocabulary.base import Bridge, BridgeKind
from paceline.drafter.vocabulary.committed import follow
from paceline.drafter.vocabulary.retokenizer import Retokenizer
from paceline.wire.vocabulary.base import Vocabulary

_AHEAD = 64  # target tokens of which the oracle's next tokens are made


@dataclass(frozen=True, slots=True)
class Survival:
    """What came of the oracle's drafts.

    Attributes:
        steps: drafts.
        proposed, accepted: target tokens. Those behind one that is refused count as proposed.
    """

    steps: int = 0
    proposed: int = 0
    accepted: int = 0

    @property
    def acceptance(self) -> float:
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def tokens_per_step(self) -> float:
        """With the token that the target adds to each draft."""
        return (self.accepted + self.steps) / self.steps if self.steps else 0.0

    def __add__(self, other: Survival) -> Survival:
        return Survival(self.steps + other.steps, self.proposed + other.proposed, self.accepted + other.accepted)


def survival(
    kind: BridgeKind,
    target: Vocabulary,
    draft: Vocabulary,
    prompt: Sequence[int],
    answer: Sequence[int],
    num_ahead: int = 8,
) -> Survival:
    """Lets the oracle draft `num_ahead` draft tokens at each step of an answer, both in target tokens."""
    bridge = kind.begin(prompt)
    at, steps, proposed, accepted = 0, 0, 0, 0
    while at < len(answer):
        tree = foreseen(bridge, target, draft, prompt, answer, at, num_ahead)
        candidates = bridge.translate(tree, range(1, len(tree) + 1))
        right, node = 0, ROOT
        while at + right < len(answer):
            children = [index for index, parent in enumerate(candidates.parents) if parent == node]
            found = [index for index in children if candidates.tokens[index] == answer[at + right]]
            if not found:
                break
            node, right = found[0], right + 1
        steps, proposed, accepted = steps + 1, proposed + len(candidates), accepted + right
        bridge.observe(answer[at : at + right + 1])
        at += right + 1
    return Survival(steps, proposed, accepted)


def foreseen(
    bridge: Bridge,
    target: Vocabulary,
    draft: Vocabulary,
    prompt: Sequence[int],
    answer: Sequence[int],
    at: int,
    num_ahead: int,
) -> LiveTree:
    """What comes behind the bridge's context, as a chain of draft tokens up to the first that may not be proposed."""
    coming = Retokenizer(draft)
    coming.append(_begun(target, answer[max(0, at - _AHEAD) : at] if at else prompt[-_AHEAD:]))
    follow(coming, target, draft, answer[at : at + _AHEAD])
    tree, node = LiveTree(), TREE_ROOT
    for token in coming.tokens[:num_ahead]:
        if bridge.allowed is not None and not bridge.allowed[token]:
            break
        certain = np.zeros(1)
        tree.expand(node, Successors(np.array([token], np.int64), certain, certain, certain, 0.0))
        node = tree.add(node, 0)
    return tree


def _begun(target: Vocabulary, tokens: Sequence[int]) -> bytes:
    """The bytes of a character that the text ends in the middle of: the draft's context is without them."""
    end = Retokenizer(target)
    follow(end, target, target, tokens)
    return end.held
