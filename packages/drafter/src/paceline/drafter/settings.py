"""Settings of a drafter."""

from __future__ import annotations

from pydantic import Field, field_validator

from paceline.drafter.strategies import STRATEGIES
from paceline.wire.settings import ServiceSettings


class DrafterSettings(ServiceSettings):
    """A drafter dials verifiers: those given by --verifiers, and those that the routers of --router know."""

    verifiers: str = ""
    """host:port of a verifier to draft for whatever routers say; several are separated by commas."""
    name: str = Field(default="", max_length=64)
    """What people call this drafter; several may share one. Empty: its strategies, joined by '+'."""
    drafter_id: str = Field(default="", max_length=128)
    """Unique in the deployment. Empty: the name and something random."""
    strategies: str = "suffix,recycling"
    """How to draft; several are separated by commas and their trees are merged."""
    max_nodes: int = Field(default=32, ge=1, le=1024)
    """Most candidate tokens in one tree; a verifier or session that takes fewer gets fewer."""
    memory_max_tokens: int = Field(default=1_000_000, ge=0, le=1_000_000_000)
    """Most tokens remembered between sessions, over all tenants; one alone may fill half, the least recently
    used leaves first. 0 remembers nothing. 100,000 tokens take about 16 MB."""

    @field_validator("strategies")
    @classmethod
    def _known_strategies(cls, value: str) -> str:
        names = split(value)
        unknown = [name for name in names if name not in STRATEGIES]
        if unknown or not names:
            raise ValueError(f"must name some of {', '.join(STRATEGIES)}, separated by commas, but is {value!r}")
        if len(set(names)) < len(names):
            raise ValueError(f"names a strategy twice: {value!r}")
        return value


def split(value: str) -> list[str]:
    """The parts of a setting that is a list."""
    return [part.strip() for part in value.split(",") if part.strip()]
