"""When to stop drafting, by name. To add a rule: a file with a class that is a `StoppingRule`, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from paceline.drafter.stopping.base import StoppingRule

# Each is made with its one parameter, or without for the usual value.
STOPPING_RULES: dict[str, Callable[..., StoppingRule]] = {}
