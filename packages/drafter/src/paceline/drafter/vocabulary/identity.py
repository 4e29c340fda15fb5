"""Bridge `identity`: target and draft have the same tokens, so nothing needs to be translated."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import ROOT as TREE_ROOT
from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import ROOT, Candidates
from paceline.drafter.vocabulary.refusals import mismatch
from paceline.drafter.vocabulary.spelling import bin_of
from paceline.wire.vocabulary.base import Vocabulary


class Identity:
    """For vocabularies of the same content. Special tokens may be proposed like others: that a model expects the end
    of an answer is worth knowing, and costs nothing if it is wrong. Ids that stand for nothing may not."""

    def __init__(self, target: Vocabulary, draft: Vocabulary) -> None:
        if target.content_hash != draft.content_hash:
            raise mismatch("identity", "they give ids different meanings or encode differently")
        meant = [draft.bytes_of(token) is not None or draft.special(token) is not None for token in range(draft.size)]
        self.allowed = None if all(meant) else np.array(meant, np.bool_)
        self.noise_ids = np.arange(draft.size, dtype=np.int64)

    def begin(self, tokens: Sequence[int]) -> IdentityBridge:
        return IdentityBridge(self, tokens)


class IdentityBridge:
    """One session."""

    def __init__(self, kind: Identity, tokens: Sequence[int]) -> None:
        self._tokens = list(tokens)
        self.context: Sequence[int] = self._tokens
        self.allowed: npt.NDArray[np.bool_] | None = kind.allowed
        self.noise_ids: npt.NDArray[np.int64] | None = kind.noise_ids

    def observe(self, tokens: Sequence[int]) -> None:
        self._tokens.extend(tokens)

    def translate(self, tree: LiveTree, selected: Sequence[int]) -> Candidates:
        return token_by_token(tree, selected)


def token_by_token(tree: LiveTree, selected: Sequence[int], ids: Sequence[int] | None = None) -> Candidates:
    """Candidates if each draft token is one of the target's: ids[token], the same without `ids`."""
    found = Candidates()
    places = {TREE_ROOT: ROOT}
    for index in selected:
        node = tree.nodes[index]
        confidence = math.exp(min(0.0, node.claim))
        if confidence and node.parent in places:
            token = node.token if ids is None else ids[node.token]
            places[index] = found.add(token, places[node.parent], confidence, bin_of(confidence))
    return found
