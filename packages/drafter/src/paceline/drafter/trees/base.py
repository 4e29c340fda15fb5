"""What a tree policy is: which tokens of a model are worth thinking further from, and which are worth proposing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from paceline.drafter.live_tree import LiveTree
from paceline.drafter.strategies.base import Budget


@dataclass(frozen=True, slots=True)
class Shape:
    """Settings that tree policies share.

    Attributes:
        width: most successors of a node that are looked at, and most nodes expanded in one forward pass.
        depth: forward passes in a row, at most, the one that expands the root included: so a tree's depth, too.
    """

    width: int = 4
    depth: int = 8


class TreePolicy(Protocol):
    """Grows a `LiveTree`, one forward pass of the model at a time. Keeps no state about a tree: it reads the tree.

    The driver calls `grow`, has the model expand what that returns, and so on until it returns nothing; then `select`.
    Each node returned must be expanded or closed (`LiveTree.close`) before the next call; then there are fewer than
    `shape.depth` calls that return something, whatever the tree held before: nodes kept by `reroot`, or of a cascade.

    A node whose value is below the budget's `least_value`, or as good as 0, is neither expanded nor selected.
    """

    draws: ClassVar[bool]
    """Whether successors must be drawn (`log_q + noise`) even at temperature 0."""

    def __init__(self, shape: Shape) -> None: ...

    def grow(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        """Adds children of expanded nodes to the tree and returns those nodes to be expanded next, at most
        `shape.width`; nothing if growing on would not be worth a forward pass.

        The root is expanded. The budget's nodes bound what `select` returns, not what is looked at.
        """

    def select(self, tree: LiveTree, budget: Budget) -> Sequence[int]:
        """The nodes to propose, parents before children, at most the budget's."""
