"""Ways to grow a model's tree, by name. To add one: a file with a class that is a `TreePolicy`, and a line here."""

from __future__ import annotations

from paceline.drafter.trees.base import TreePolicy

TREES: dict[str, type[TreePolicy]] = {}
