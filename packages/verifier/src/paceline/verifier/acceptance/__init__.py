"""Acceptance rules: which candidates become output. One file each, one line here."""

from __future__ import annotations

from paceline.verifier.acceptance.coupled import Walk, coupled

RULES = {"coupled": coupled}

__all__ = ["RULES", "Walk", "coupled"]
