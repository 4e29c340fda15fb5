"""What joins a drafter's vocabulary to a target's.

The drafter thinks in its own tokens and proposes the target's. A `Bridge` holds, for one session, the drafter's view of
the committed text, and turns trees of draft tokens into trees of target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import Candidates
from paceline.wire.vocabulary.base import Vocabulary


class Bridge(Protocol):
    """One session's way between two vocabularies. Made by a `BridgeKind`."""

    context: Sequence[int]
    """The committed text in draft tokens, as far as its characters are complete. `observe` may change its end. The
    object stays the same."""
    allowed: npt.NDArray[np.bool_] | None
    """Draft tokens [size] that can be proposed; None: all. The model's distribution is cut to these and normalised.
    A bridge that learns changes it in place."""
    noise_ids: npt.NDArray[np.int64] | None
    """Draft token -> the target token whose noise it shares, -1 if there is none [size]; None if positions differ, so
    that nothing is shared."""

    def observe(self, tokens: Sequence[int]) -> None:
        """Target tokens committed."""

    def translate(self, tree: LiveTree, selected: Sequence[int]) -> Candidates:
        """Candidates in target tokens for these nodes, parents first (a node's parent is the root or selected, too).

        A target token's confidence is the product of the claims of the draft tokens that it consumed, less what other
        selected nodes make of the same draft tokens. What can't be said in target tokens yet, such as a part of a
        character, is held back.
        """


class BridgeKind(Protocol):
    """A way to join two vocabularies; shared by all sessions of a stream, and by streams to targets with the same one.

    Raises PacelineError (VOCABULARY_MISMATCH) when made for vocabularies that it can't join, with the reason.
    """

    def __init__(self, target: Vocabulary, draft: Vocabulary) -> None: ...

    def begin(self, tokens: Sequence[int]) -> Bridge:
        """A bridge for a session with this context in target tokens."""
