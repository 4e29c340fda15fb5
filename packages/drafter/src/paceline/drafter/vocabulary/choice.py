"""Which bridge joins a drafter's vocabulary to a target's."""

from __future__ import annotations

from paceline.drafter.vocabulary import BRIDGES
from paceline.drafter.vocabulary.base import BridgeKind
from paceline.wire.errors import out_of_range
from paceline.wire.vocabulary.base import Vocabulary

AUTO = "auto"


def choose(target: Vocabulary, draft: Vocabulary, name: str = AUTO) -> BridgeKind:
    """The bridge of that name; by "auto" `identity` for vocabularies of the same content, else `string_exact`.

    `string_exact` works for any two vocabularies, leaves the draft model free to say what it wants, and had far more of
    its proposals accepted than the others in every measurement (`tools/bench/oracle.py`).

    Raises:
        PacelineError: OUT_OF_RANGE for a name that no bridge has; VOCABULARY_MISMATCH if it can't join these two.
    """
    if name == AUTO:
        name = "identity" if target.content_hash == draft.content_hash else "string_exact"
    if name not in BRIDGES:
        raise out_of_range("bridge", name[:40], f"{AUTO} or one of {', '.join(BRIDGES)}")
    return BRIDGES[name](target, draft)
