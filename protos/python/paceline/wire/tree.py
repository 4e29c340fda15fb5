"""Draft trees: the value, and its codec with bounds.

Everything in a `DraftTreeMessage` is hostile until `decode_tree` has looked at it. A parent must come before its child,
so a cycle cannot be expressed: an index that would make one is refused as malformed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from paceline.v1 import drafting_pb2
from paceline.wire.errors import PacelineError, Reason

ROOT = -1  # parent index of a node that continues the anchor itself


@dataclass(frozen=True, slots=True)
class Anchor:
    """Where a tree hangs: a session, the committed length it was drafted from, and the digest of those tokens."""

    session_id: int
    length: int
    digest: int


@dataclass(frozen=True, slots=True)
class DraftTree:
    """Candidate tokens in the target's vocabulary, parents before children.

    Attributes:
        tokens: [n] token ids.
        parents: [n] index of each node's parent, `ROOT` for a child of the anchor; parents[i] < i.
        log_confidence: [n] log-probability that node i is right given that its parent is; finite, at most 0.
        strategy: [n] index into the drafter's strategies.
    """

    tokens: tuple[int, ...] = ()
    parents: tuple[int, ...] = ()
    log_confidence: tuple[float, ...] = ()
    strategy: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class TreeBounds:
    """What a receiver accepts."""

    max_nodes: int
    max_depth: int
    vocab_size: int
    num_strategies: int


def encode_tree(anchor: Anchor, tree: DraftTree, *, draft_us: int = 0, final: bool = False) -> drafting_pb2.DraftTree:
    """The message for a tree; the sender's own bounds are the sender's business."""
    return drafting_pb2.DraftTree(
        anchor=drafting_pb2.Anchor(session_id=anchor.session_id, length=anchor.length, digest=anchor.digest),
        tokens=tree.tokens,
        parents=[parent + 1 for parent in tree.parents],
        log_confidence=tree.log_confidence,
        strategy=tree.strategy,
        draft_us=draft_us,
        final=final,
    )


def decode_tree(message: drafting_pb2.DraftTree, bounds: TreeBounds) -> tuple[Anchor, DraftTree]:
    """The tree in a message.

    Raises:
        PacelineError: TREE_TOO_LARGE, TREE_TOO_DEEP, TREE_MALFORMED or TOKEN_OUT_OF_VOCABULARY.
    """
    num_nodes = len(message.tokens)
    if num_nodes > bounds.max_nodes:
        raise _refused(Reason.TREE_TOO_LARGE, "tokens", num_nodes, f"at most {bounds.max_nodes} nodes")
    for field in ("parents", "log_confidence", "strategy"):
        length = len(getattr(message, field))
        if length != num_nodes:
            raise _refused(Reason.TREE_MALFORMED, field, length, f"as many entries as tokens ({num_nodes})")
    tree = DraftTree(
        tokens=tuple(message.tokens),
        parents=tuple(parent - 1 for parent in message.parents),
        log_confidence=tuple(message.log_confidence),
        strategy=tuple(message.strategy),
    )
    _check_nodes(tree, bounds)
    anchor = message.anchor
    return Anchor(anchor.session_id, anchor.length, anchor.digest), tree


def _check_nodes(tree: DraftTree, bounds: TreeBounds) -> None:
    depths: list[int] = []
    for index, (token, parent) in enumerate(zip(tree.tokens, tree.parents, strict=True)):
        if token >= bounds.vocab_size:
            limit = f"less than the vocabulary's {bounds.vocab_size}"
            raise _refused(Reason.TOKEN_OUT_OF_VOCABULARY, f"tokens[{index}]", token, limit)
        if parent >= index:
            limit = f"at most {index}: parents come before children"
            raise _refused(Reason.TREE_MALFORMED, f"parents[{index}]", parent + 1, limit)
        depth = 1 if parent == ROOT else depths[parent] + 1
        if depth > bounds.max_depth:
            limit = f"at depth {bounds.max_depth} or less"
            raise _refused(Reason.TREE_TOO_DEEP, f"tokens[{index}]", f"at depth {depth}", limit)
        depths.append(depth)
    for index, (confidence, strategy) in enumerate(zip(tree.log_confidence, tree.strategy, strict=True)):
        if not (confidence <= 0.0 and math.isfinite(confidence)):
            limit = "finite and at most 0"
            raise _refused(Reason.TREE_MALFORMED, f"log_confidence[{index}]", confidence, limit)
        if strategy >= bounds.num_strategies:
            limit = f"less than the {bounds.num_strategies} strategies of Hello"
            raise _refused(Reason.TREE_MALFORMED, f"strategy[{index}]", strategy, limit)


def _refused(reason: Reason, field: str, value: object, limit: str) -> PacelineError:
    return PacelineError(reason, f"{field} is {value}; it must be {limit}", field=field, value=value, limit=limit)
