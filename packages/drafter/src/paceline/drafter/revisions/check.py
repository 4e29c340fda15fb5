"""Whether a revision may take the place of the one at work. Pure; a trainer is not trusted."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.model_card import FeatureHeadCard, LanguageModelCard
from paceline.wire.revision import manifest_json, parse_manifest, revision_id, unusable
from paceline.wire.revision_folder import FORMAT, Revision

Verify = Callable[[trainer_pb2.RevisionManifest, bytes], None]


@dataclass(frozen=True, slots=True)
class Terms:
    """What a line's revisions must be.

    Attributes:
        line: that is followed.
        verify: raises UNSIGNED for what isn't signed by whom it should; None takes anything.
    """

    line: str
    verify: Verify | None = None


def check_announced(message: trainer_pb2.Revision, terms: Terms) -> None:
    """What can be said before anything is fetched.

    Raises:
        PacelineError: HASH_MISMATCH for an id that isn't the manifest's, UNSIGNED, or UNUSABLE_REVISION.
    """
    manifest = parse_manifest(manifest_json(message.manifest).encode())  # the bounds are those of files
    if revision_id(manifest) != message.revision_id:
        raise PacelineError(
            Reason.HASH_MISMATCH,
            "the trainer's manifest is not what its revision_id is the hash of; ask who runs it",
            field="revision_id",
            value=message.revision_id[:64],
            limit=revision_id(manifest),
        )
    if manifest.drafter != terms.line:
        raise unusable("drafter", repr(manifest.drafter), f"{terms.line!r}, the line of --line")
    if manifest.format != FORMAT:
        raise unusable("format", repr(manifest.format), f"{FORMAT!r}; publish what `export` or a recipe wrote")
    if terms.verify is not None:
        terms.verify(message.manifest, message.signature)


def check_successor(new: Revision, old: Revision | None, kinds: Collection[str], targets: Collection[str]) -> None:
    """What takes over must be of the same kind and for the same target.

    Args:
        new: fetched.
        old: at work; None if there is none yet.
        kinds: of cards that strategies here take.
        targets: tokenizer hashes of the targets that are drafted for; none if that isn't known yet.

    Raises UNUSABLE_REVISION.
    """
    if new.card.KIND not in kinds:
        raise unusable("model.json kind", new.card.KIND, f"one that --strategies take: {', '.join(sorted(kinds))}")
    if old is not None:
        _same("kind", _kind(new.card), _kind(old.card))
        _same("model", new.manifest.model, old.manifest.model)
        _same("tokenizer_hash", new.manifest.tokenizer_hash, old.manifest.tokenizer_hash)
    made_for = new.manifest.tokenizer_hash
    if made_for and targets and made_for not in targets:
        raise unusable("tokenizer_hash", made_for, f"that of a target served here: {', '.join(sorted(targets))}")


def _kind(card: LanguageModelCard) -> str:
    cut = ", cut vocabulary" if card.cut_vocabulary else ""
    if isinstance(card, FeatureHeadCard):  # what its verifiers were asked for when streams began
        borrows = ", borrowing" if card.borrows else ""
        return f"{card.KIND}{cut}{borrows}, layers {card.feature_layers} of {card.target_hidden_size}"
    return f"{card.KIND}{cut}"


def _same(name: str, new: str, old: str) -> None:
    """What either doesn't tell is not compared."""
    if new and old and new != old:
        raise unusable(name, repr(new), f"{old!r}, as of the revision at work; start a drafter with it instead")
