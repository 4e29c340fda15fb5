"""What one step verified for a session, as it is told to those who ask. Pure.

Plain values and nothing of the trie, since a slow reader keeps them waiting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from paceline.verifier.trie import Candidate, Source
from paceline.wire.tree import ROOT

DEFAULT_TOLD_NODES = 64
MAX_TOLD_NODES = 256
MAX_UNREAD_EVENTS = 256  # with more, a reader hears how many candidates there were and no more


@dataclass(frozen=True, slots=True)
class StepFigures:
    """Of a step, whole batch.

    Attributes:
        step_s: seconds of the forward pass.
        wait_s: that were spent waiting for drafts before it.
        rows: of the forward pass.
        plain_step_s: that one row for each session which got tokens costs, by the cost model.
    """

    step_s: float
    wait_s: float
    rows: int
    plain_step_s: float


class VerifiedNode(NamedTuple):
    """A candidate: `parent` is an index among those told, `ROOT` for the last committed token; `sources`, the first to
    propose it first; `probability` that it commits, as estimated when the step was planned."""

    token: int
    parent: int
    sources: tuple[Source, ...]
    probability: float
    accepted: bool


@dataclass(frozen=True, slots=True)
class StepEvent:
    """Precedes the tokens that the step brought."""

    nodes: tuple[VerifiedNode, ...]
    num_hidden: int
    figures: StepFigures


def step_event(
    candidates: Sequence[Candidate], accepted: Sequence[int], max_nodes: int, figures: StepFigures
) -> StepEvent:
    """Tells of at most `max_nodes` candidates: those that were accepted, and the most valuable of the others.

    Args:
        candidates: as planned, best first and parents before children.
        accepted: indices of those that became output, a path from the root in its order.
        max_nodes: 0 tells only how many there were.
        figures: of the step.
    """
    path = set(accepted)
    told = [*accepted][:max_nodes]
    others = (index for index in range(len(candidates)) if index not in path)
    told = sorted((*told, *islice(others, max_nodes - len(told))))
    places = {index: place for place, index in enumerate(told)}
    nodes = []
    for index in told:
        candidate = candidates[index]
        parent = ROOT if candidate.parent == ROOT else places[candidate.parent]
        sources = tuple(candidate.node.proposals)
        nodes.append(VerifiedNode(candidate.node.token, parent, sources, candidate.value, index in path))
    return StepEvent(tuple(nodes), len(candidates) - len(told), figures)
