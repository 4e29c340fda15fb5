"""Which of Paceline's wheels are here. Services are looked for and never imported."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

WHEELS = {service: f"paceline-{service}" for service in ("router", "verifier", "drafter", "trainer")}
EXTRAS = {"http": ("fastapi", "uvicorn")}  # what `paceline-router[http]` brings


def has_module(name: str) -> bool:
    """Whether it could be imported."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def missing_wheels(services: Iterable[str], http: bool = False) -> list[str]:
    """Names of wheels that these services need and that aren't installed."""
    missing = [WHEELS[service] for service in services if not has_module(f"paceline.{service}")]
    if http and "paceline-router" not in missing and not all(map(has_module, EXTRAS["http"])):
        missing.append("paceline-router[http]")
    return missing
