"""When to stop drafting, by name. To add a rule: a file with a class that is a `StoppingRule`, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from paceline.drafter.stopping.acceptance_head import AcceptanceHead
from paceline.drafter.stopping.base import StoppingRule
from paceline.drafter.stopping.confidence import Confidence
from paceline.drafter.stopping.cost import Cost
from paceline.drafter.stopping.fixed import Fixed
from paceline.drafter.stopping.svip import Svip
from paceline.drafter.stopping.thompson import Thompson

# Each is made with its one parameter, or without for the usual value; ValueError if it makes no sense.
STOPPING_RULES: dict[str, Callable[..., StoppingRule]] = {
    "fixed": Fixed,
    "confidence": Confidence,
    "svip": Svip,
    "acceptance_head": AcceptanceHead,
    "thompson": Thompson,
    "cost": Cost,
}
