"""Policies by name. To add one: one file, one line here."""

from __future__ import annotations

from collections.abc import Callable

from paceline.router.policies.base import Policy, PolicyOptions
from paceline.router.policies.epsilon import Epsilon
from paceline.router.policies.exp3 import Exp3
from paceline.router.policies.fixed import Fixed
from paceline.router.policies.hedge import Hedge
from paceline.router.policies.linucb import LinUcb
from paceline.router.policies.thompson import Thompson
from paceline.router.policies.ucb import DiscountedUcb

POLICIES: dict[str, Callable[[PolicyOptions], Policy]] = {
    "linucb": lambda _options: LinUcb(),
    "ucb": lambda _options: DiscountedUcb(),
    "thompson": lambda _options: Thompson(),
    "exp3": lambda _options: Exp3(),
    "hedge": lambda _options: Hedge(),
    "epsilon": lambda _options: Epsilon(),
    "fixed": lambda options: Fixed(options.fixed_drafters),
}
