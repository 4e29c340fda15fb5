"""Arms: what the router chooses between."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import dataclass

MAX_ARMS_WITH_PAIRS = 12
MAX_ARMS = 32  # with budgets
MAX_DRAFTERS = 16  # a request may name no more


@dataclass(frozen=True, slots=True, order=True)
class Arm:
    """A set of drafters by name, in order, with a draft budget.

    Attributes:
        drafters: names, sorted and distinct; empty is plain decoding.
        max_nodes: bound on the candidates of one step; 0 leaves it to the verifier.
    """

    drafters: tuple[str, ...] = ()
    max_nodes: int = 0

    def __post_init__(self) -> None:
        if list(self.drafters) != sorted(set(self.drafters)):
            raise ValueError(f"drafters of an arm are sorted and distinct, not {self.drafters}")

    def __str__(self) -> str:
        return ("+".join(self.drafters) or "none") + (f" <= {self.max_nodes}" if self.max_nodes else "")

    def to_text(self) -> str:
        """The same text for the same arm, for stores."""
        return json.dumps({"drafters": self.drafters, "max_nodes": self.max_nodes}, separators=(",", ":"))

    @staticmethod
    def from_text(text: str) -> Arm:
        """Raises ValueError for anything that `to_text` doesn't write."""
        value = json.loads(text)
        if not isinstance(value, dict) or set(value) != {"drafters", "max_nodes"}:
            raise ValueError("an arm has drafters and max_nodes")
        drafters, max_nodes = value["drafters"], value["max_nodes"]
        if not isinstance(drafters, list) or not all(isinstance(name, str) for name in drafters):
            raise ValueError("an arm's drafters are strings")
        if not isinstance(max_nodes, int) or isinstance(max_nodes, bool) or max_nodes < 0:
            raise ValueError("an arm's max_nodes is a count")
        return Arm(tuple(drafters), max_nodes)


PLAIN = Arm()


def arm_of(names: Iterable[str]) -> Arm:
    """The arm of these drafters, whatever their order."""
    return Arm(tuple(sorted(set(names))))


def arms_for(names: Iterable[str], small_budget: int = 0) -> tuple[Arm, ...]:
    """The arms worth trying where drafters of these names are connected.

    Plain decoding, each alone, and all together; pairs too while that makes at most 12 arms. Of more than 16
    names the first 16 count, so that the number of arms, each of which costs trials, stays bounded whoever
    connects. With a small budget, each set of drafters also with at most so many candidates, where that makes at
    most 32 arms.

    >>> [str(arm) for arm in arms_for(["b", "a"])]
    ['none', 'a', 'b', 'a+b']
    """
    sets = _sets_of(names)
    small = [Arm(arm.drafters, small_budget) for arm in sets if arm.drafters and small_budget]
    return (*sets, *small) if len(sets) + len(small) <= MAX_ARMS else sets


def _sets_of(names: Iterable[str]) -> tuple[Arm, ...]:
    known = sorted(set(names))[:MAX_DRAFTERS]
    arms = [PLAIN, *(Arm((name,)) for name in known)]
    everybody = [Arm(tuple(known))] if len(known) > 1 else []
    pairs = [Arm(pair) for pair in itertools.combinations(known, 2)] if len(known) > 2 else []
    if len(arms) + len(pairs) + len(everybody) > MAX_ARMS_WITH_PAIRS:
        pairs = []
    return (*arms, *pairs, *everybody)
