"""How files that are no usable tokenizers are refused."""

from __future__ import annotations

from paceline.wire.errors import PacelineError, Reason


def malformed(field: str, why: str) -> PacelineError:
    """A file is no tokenizer, or none that can be used."""
    return PacelineError(
        Reason.MALFORMED, f"{field} {why}; use the tokenizer.json that belongs to the model", field=field
    )


def not_understood(why: str) -> PacelineError:
    """A tokenizer of a family in which tokens don't stand for bytes."""
    message = f"the tokenizer can't be bridged: {why}; use a byte-level or SentencePiece-like tokenizer"
    return PacelineError(Reason.VOCABULARY_MISMATCH, message, field="tokenizer_json")
