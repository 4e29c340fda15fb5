"""How bridges refuse."""

from __future__ import annotations

from paceline.wire.errors import PacelineError, Reason


def mismatch(bridge: str, why: str) -> PacelineError:
    """Two vocabularies can't be joined in this way."""
    message = f"bridge {bridge} can't join the target's vocabulary and the draft model's: {why}; use --bridge auto"
    return PacelineError(Reason.VOCABULARY_MISMATCH, message, field="bridge", value=bridge)
