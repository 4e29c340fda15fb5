"""Bridges between vocabularies, by name. To add one: a file with a class that is a `BridgeKind`, and a line here."""

from __future__ import annotations

from paceline.drafter.vocabulary.base import BridgeKind
from paceline.drafter.vocabulary.identity import Identity
from paceline.drafter.vocabulary.intersection import Intersection
from paceline.drafter.vocabulary.ngram_cache import NgramCache
from paceline.drafter.vocabulary.string_exact import StringExact

BRIDGES: dict[str, type[BridgeKind]] = {
    "identity": Identity,
    "string_exact": StringExact,
    "intersection": Intersection,
    "ngram_cache": NgramCache,
}
