"""Recipes by name. To add one: a file with a class that is a `Recipe`, and a line here."""

from __future__ import annotations

from paceline.trainer.recipes.base import Recipe
from paceline.trainer.recipes.head_bootstrap import FeatureHeadRecipe
from paceline.trainer.recipes.tiny_lm import TinyLmRecipe
from paceline.trainer.recipes.trimmed_lm import TrimmedLmRecipe

RECIPES: dict[str, type[Recipe]] = {
    "tiny_lm": TinyLmRecipe,
    "trimmed_lm": TrimmedLmRecipe,
    "feature_head": FeatureHeadRecipe,
}
