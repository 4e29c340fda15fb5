"""Who drafts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Identity:
    """What a drafter says of itself to verifiers and routers.

    Attributes:
        drafter_id: unique in the deployment.
        name: what people call it.
        strategies: that its trees refer to by index.
        commit_top_k: how many of the target's best tokens it wants with each commit.
        own: it drafts only for requests that name its id.
        feature_layers: of the target, whose states it wants with each commit; none if it has no head.
        feature_window: of how many of a prompt's last positions; 0 is of as many as a verifier gives.
        revision: id of the weights it drafts with, if they are a revision's.
        trial_of: id of the drafter whose place it takes on some requests, to find out which is better.
    """

    drafter_id: str
    name: str
    strategies: tuple[str, ...]
    commit_top_k: int
    own: bool = False
    feature_layers: tuple[int, ...] = ()
    feature_window: int = 0
    revision: str = ""
    trial_of: str = ""
