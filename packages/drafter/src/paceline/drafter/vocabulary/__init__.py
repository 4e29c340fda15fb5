"""Bridges between vocabularies, by name. To add one: a file with a class that is a `BridgeKind`, and a line here."""

from __future__ import annotations

from paceline.drafter.vocabulary.base import BridgeKind

BRIDGES: dict[str, type[BridgeKind]] = {}
