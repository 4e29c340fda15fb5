"""Ways to grow a model's tree, by name. To add one: a file with a class that is a `TreePolicy`, and a line here."""

from __future__ import annotations

from paceline.drafter.trees.base import TreePolicy
from paceline.drafter.trees.chain import Chain
from paceline.drafter.trees.eagle2 import Eagle2
from paceline.drafter.trees.gumbel_top_k import GumbelTopK
from paceline.drafter.trees.opt_tree import OptTree
from paceline.drafter.trees.static import Static
from paceline.drafter.trees.stochastic_beam import StochasticBeam

TREES: dict[str, type[TreePolicy]] = {
    "chain": Chain,
    "static": Static,
    "eagle2": Eagle2,
    "opt_tree": OptTree,
    "gumbel_top_k": GumbelTopK,
    "stochastic_beam": StochasticBeam,
}
