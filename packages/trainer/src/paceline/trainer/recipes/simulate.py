"""What a feature head would have been worth on answers that are known: the trees it drafts, and how far they hold.

The target's answer doesn't depend on drafts, so every place of an answer can be drafted at in one batch, and a step
that begins there commits what its tree has right, and one token more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from paceline.trainer.models.feature_head import FeatureHead
from paceline.trainer.training.borrowing import Borrowed, joined, side_by_side
from paceline.trainer.training.head_task import HeadText
from paceline.trainer.training.unroll import Texts, unroll

ROOT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeShape:
    """How trees grow: in passes, each expanding the likeliest nodes that are not expanded yet, as far as they are among
    the num_nodes likeliest; these are the tree in the end (EAGLE-2).

    Attributes:
        num_nodes: in a tree.
        num_passes: of the head, the one that reads the text's last row included.
        pass_rows: most nodes that one of the others expands.
        branches: most successors of a node.
    """

    num_nodes: int = 16
    num_passes: int = 5
    pass_rows: int = 6
    branches: int = 8


@dataclass(slots=True)
class DraftedTree:
    """Nodes, parents before children, tokens in the head's vocabulary.

    Attributes:
        confidence: probability given that the parent is right.
        values: product of confidences down to the node.
    """

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    confidence: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, token: int, parent: int, confidence: float) -> int:
        """Appends a node and returns its index."""
        self.tokens.append(token)
        self.parents.append(parent)
        self.confidence.append(confidence)
        self.values.append(confidence * (1.0 if parent == ROOT else self.values[parent]))
        return len(self.tokens) - 1

    def path(self, node: int) -> list[int]:
        """The node and its ancestors, the node first."""
        found = []
        while node != ROOT:
            found.append(node)
            node = self.parents[node]
        return found

    def best(self, count: int) -> list[int]:
        """The likeliest nodes; parents go before their children, which are never likelier."""
        return sorted(range(len(self.tokens)), key=lambda node: -self.values[node])[:count]

    def pruned(self, count: int) -> DraftedTree:
        """The tree of its likeliest nodes."""
        kept = self.best(count)
        place = {ROOT: ROOT} | {node: index for index, node in enumerate(kept)}
        tree = DraftedTree()
        for node in kept:
            tree.add(self.tokens[node], place[self.parents[node]], self.confidence[node])
        return tree

    def num_right(self, tokens: Sequence[int]) -> int:
        """How many of these tokens, from the first on, are a path of the tree."""
        children = {
            (parent, token): node for node, (parent, token) in enumerate(zip(self.parents, self.tokens, strict=True))
        }
        node, count = ROOT, 0
        for token in tokens:
            found = children.get((node, token))
            if found is None:
                break
            node, count = found, count + 1
        return count


@torch.no_grad()
def draft(head: FeatureHead, text: HeadText, shape: TreeShape) -> list[DraftedTree]:
    """The trees that the head drafts at each of the text's starts."""
    return _Drafting(head, text, shape).run()


def tokens_per_step(text: HeadText, trees: Sequence[DraftedTree]) -> tuple[int, int]:
    """Tokens committed and steps taken from the first of the text's starts on, with the tree of each start."""
    ids, place, steps = text.ids.tolist(), 0, 0
    while place < len(trees):
        steps += 1
        place += 1 + trees[place].num_right(ids[text.starts[place] + 2 :])
    return min(place, len(trees)), steps


@torch.no_grad()
def acceptance(head: FeatureHead, texts: Sequence[HeadText], depth: int) -> tuple[float, ...]:
    """Share of the head's best tokens that are right in each row of a draft, given that those before are, over all
    places of the texts. Counts tokens that aren't in its vocabulary as wrong; 0 where nothing gets that far."""
    tried, right = torch.zeros(depth), torch.zeros(depth)
    for text in texts:
        rows, borrowed = _rows(head, text)
        starts = rows.starts
        alive = torch.ones_like(starts, dtype=torch.bool)
        for step, hidden in enumerate(unroll(head, rows, depth)):
            at = starts + step
            alive = alive & (at < len(text.ids) - 2)
            next_ids = text.ids[(at + 2).clamp(max=len(text.ids) - 1)]
            tried[step] += alive.sum()
            best = joined(head.logits(hidden), borrowed.logits(head.normed(hidden)), borrowed.known(starts)).argmax(-1)
            alive = alive & (best == next_ids)
            right[step] += alive.sum()
    return tuple((right / tried.clamp(min=1)).tolist())


def _rows(head: FeatureHead, text: HeadText) -> tuple[Texts, Borrowed]:
    """A text on its own, with drafts at all its starts, and what it has beyond the vocabulary."""
    places = torch.arange(len(text.ids) - 1)[None]
    features = text.features[None, :-1].to(head.norm.weight.dtype)
    borrowed = side_by_side([text.borrowed], head.shape.block.width)
    read = borrowed.read(text.ids[None, 1:], head.shape.vocab_size)
    starts = torch.tensor(text.starts)[None]
    return Texts(text.ids[None, 1:], text.first + 1 + places, features, starts, read), borrowed


class _Drafting:
    """All drafts of one text. In a batch, each has the text's keys and values, and its own rows' behind them."""

    def __init__(self, head: FeatureHead, text: HeadText, shape: TreeShape) -> None:
        self._head, self._shape = head, shape
        self._texts, self._borrowed = _rows(head, text)
        self._starts = self._texts.starts[0]
        self._known = self._borrowed.known(self._texts.starts)[0]  # [S, K]
        stream = head.enter(self._texts.input_ids, head.fuse(self._texts.features), self._texts.others)
        keys, values = head.block.keys_values(stream, head.rope(self._texts.position_ids))
        self._keys, self._values = (part.expand(len(self._starts), -1, -1, -1) for part in (keys, values))
        self._in_text = torch.arange(stream.shape[1]) <= self._starts[:, None]
        self._trees = [DraftedTree() for _ in text.starts]
        self._rows: list[dict[int, int]] = [{} for _ in text.starts]  # node: its row among the draft's
        self._hidden = torch.zeros(len(self._starts), 0, head.shape.block.width)

    def run(self) -> list[DraftedTree]:
        (root,) = unroll(self._head, self._texts, 1)
        self._root = root[0]
        self._branch(self._root[:, None], [[ROOT] for _ in self._trees])
        for _ in range(1, self._shape.num_passes):
            chosen = [self._choice(tree, rows) for tree, rows in zip(self._trees, self._rows, strict=True)]
            if not any(chosen):
                break
            self._pass(chosen)
        return [tree.pruned(self._shape.num_nodes) for tree in self._trees]

    def _choice(self, tree: DraftedTree, rows: dict[int, int]) -> list[int]:
        waiting = [node for node in tree.best(self._shape.num_nodes) if node not in rows]
        return waiting[: self._shape.pass_rows]

    def _pass(self, chosen: list[list[int]]) -> None:
        """Reads the chosen nodes of each tree, and adds their successors; short rows are padded by nodes that see
        themselves only and are forgotten."""
        before, width = self._hidden.shape[1], max(map(len, chosen))
        size = (len(chosen), width)
        ids, depths = torch.zeros(size, dtype=torch.int64), torch.ones(size, dtype=torch.int64)
        above = self._root[:, None].repeat(1, width, 1)
        visible = torch.zeros(*size, before + width, dtype=torch.bool)
        visible[:, :, before:] = torch.eye(width, dtype=torch.bool)
        for index, (nodes, tree, rows) in enumerate(zip(chosen, self._trees, self._rows, strict=True)):
            for row, node in enumerate(nodes):
                path = tree.path(node)
                rows[node] = before + row
                ids[index, row], depths[index, row] = tree.tokens[node], len(path)
                visible[index, row, [rows[ancestor] for ancestor in path]] = True
                if len(path) > 1:
                    above[index, row] = self._hidden[index, rows[path[1]]]
        positions = self._texts.position_ids[0, self._starts][:, None] + depths
        sees = torch.cat((self._in_text[:, None].expand(-1, width, -1), visible), dim=-1)
        others = self._borrowed.read(ids.view(1, -1), self._head.shape.vocab_size)
        others = None if others is None else others.view(*size, -1)
        _, hidden, keys, values = self._head(ids, positions, sees, above, self._keys, self._values, others)
        self._keys, self._values = torch.cat((self._keys, keys), 1), torch.cat((self._values, values), 1)
        self._hidden = torch.cat((self._hidden, hidden), 1)
        self._branch(hidden, chosen)

    def _branch(self, hidden: Tensor, nodes: list[list[int]]) -> None:
        """Adds the likeliest successors of nodes with these outputs [S, rows, width]."""
        head, known = self._head, self._known[:, None].expand(-1, hidden.shape[1], -1)
        others = self._borrowed.logits(head.normed(hidden).flatten(0, 1)[None])[0].unflatten(0, hidden.shape[:2])
        logits = joined(head.logits(hidden), others, known)
        best = logits.softmax(-1).topk(min(self._shape.branches, head.shape.vocab_size))
        tokens, confidence = best.indices.tolist(), best.values.tolist()
        for index, parents in enumerate(nodes):
            for row, parent in enumerate(parents):
                for token, share in zip(tokens[index][row], confidence[index][row], strict=True):
                    self._trees[index].add(token, parent, share)
