"""A bridge that stays while models come and go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from paceline.drafter.vocabulary.base import Bridge, BridgeKind
from paceline.drafter.vocabulary.cut import CutVocabulary
from paceline.wire.vocabulary.base import Vocabulary

DraftVocabulary = Vocabulary | CutVocabulary
MakeKind = Callable[[DraftVocabulary], BridgeKind]


class Way:
    """Streams keep this; what it leads through is exchanged when a model with another vocabulary takes over.

    Args:
        make: the bridge from a model's vocabulary to the target's. Raises VOCABULARY_MISMATCH.
        vocabulary: of the model at work.
    """

    def __init__(self, make: MakeKind, vocabulary: DraftVocabulary) -> None:
        self.make = make
        self.kind = make(vocabulary)

    def begin(self, tokens: Sequence[int]) -> Bridge:
        """See `BridgeKind`."""
        return self.kind.begin(tokens)
