"""Ways to draft, by name. To add one: a file with a class that is a `Strategy`, and a line here."""

from __future__ import annotations

from paceline.drafter.strategies.base import Strategy
from paceline.drafter.strategies.recycling import Recycling
from paceline.drafter.strategies.suffix import Suffix

STRATEGIES: dict[str, type[Strategy]] = {
    "suffix": Suffix,
    "recycling": Recycling,
}
