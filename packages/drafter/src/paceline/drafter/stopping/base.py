"""What a stopping rule is: whether it is worth a forward pass to think on from a node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from paceline.drafter.live_tree import LiveTree, Successors


@dataclass(frozen=True, slots=True)
class Times:
    """Measured, in seconds; 0 where nothing is known yet.

    Attributes:
        draft_s: one forward pass of the drafter.
        step_s: one step of the verifier, as commits come in.
    """

    draft_s: float = 0.0
    step_s: float = 0.0


class StoppingRule(Protocol):
    """Asked for each node that a tree policy wants to expand, the root excepted. One instance serves all sessions of a
    model, so what it learns it learns from all of them; it learns numbers only.
    """

    def stops(self, tree: LiveTree, node: int, times: Times) -> bool:
        """True: don't expand this node but close it (`LiveTree.close`), or the policy will ask for it again.

        The node's parent is expanded, the node itself is not.
        """

    def learn(self, tree: LiveTree, node: int, right: bool) -> None:
        """A node whose parent came true turned out right or wrong.

        Told before the tree is rerooted: a root has no parent any more.
        """


def drawn_from(tree: LiveTree, node: int) -> Successors:
    """What a node, not the root, is one of: its parent's successors."""
    successors = tree.nodes[tree.nodes[node].parent].successors
    assert successors is not None, "a parent is expanded"
    return successors
