"""Who is there and what is believed of the arms: for the status over gRPC and HTTP, and for the history."""

from __future__ import annotations

from paceline.router.arms import Arm
from paceline.router.backend import Backend
from paceline.router.learner import ArmReport
from paceline.router.member import Member, Role


def members_of(backend: Backend) -> list[Member]:
    """All that are registered, by role and id."""
    return [member for role in Role for member in backend.roster.members(role)]


def arms_of(backend: Backend) -> list[tuple[str, ArmReport]]:
    """Each arm that can be chosen at one of a model's verifiers, with the model."""
    found: dict[str, set[Arm]] = {}
    for verifier in backend.roster.members(Role.VERIFIER):
        names = backend.roster.drafter_names(verifier).values()
        found.setdefault(verifier.model, set()).update(backend.arms_for(names))
    return [
        (model, report)
        for model, arms in found.items()
        for report in backend.learner.report(model, sorted(arms, key=lambda arm: (len(arm.drafters), arm)))
    ]
