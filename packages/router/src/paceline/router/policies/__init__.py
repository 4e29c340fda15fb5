"""Policies by name. To add one: one file, one line here."""

from __future__ import annotations

from collections.abc import Callable

from paceline.router.policies.base import Policy, PolicyOptions
from paceline.router.policies.fixed import Fixed
from paceline.router.policies.ucb import DiscountedUcb

POLICIES: dict[str, Callable[[PolicyOptions], Policy]] = {
    "ucb": lambda _options: DiscountedUcb(),
    "fixed": lambda options: Fixed(options.fixed_drafters),
}
