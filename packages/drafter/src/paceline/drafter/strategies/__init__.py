"""Ways to draft, by name. To add one: a file with a class that is a `Strategy`, and a line here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from paceline.drafter.datastore.store import Datastore
from paceline.drafter.strategies.base import Resources, Strategy
from paceline.drafter.strategies.consensus import Consensus
from paceline.drafter.strategies.hierarchy import Hierarchy
from paceline.drafter.strategies.recycling import Recycling
from paceline.drafter.strategies.retrieval import Retrieval
from paceline.drafter.strategies.stochastic_ngram import StochasticNgram
from paceline.drafter.strategies.suffix import Suffix
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError

STRATEGIES: dict[str, type[Strategy]] = {
    "suffix": Suffix,
    "recycling": Recycling,
    "stochastic_ngram": StochasticNgram,
    "retrieval": Retrieval,
    "hierarchy": Hierarchy,
    "consensus": Consensus,
}


def open_resources(strategies: Sequence[str], datastore: Path | None) -> Resources:
    """What these strategies read, opened and checked.

    Args:
        datastore: folder made by the `index` command; None if there is none.

    Raises:
        StartupError: a strategy that needs a datastore has none, or the datastore is damaged.
    """
    if datastore is None and "retrieval" in strategies:
        raise StartupError("strategy retrieval needs --datastore; 'paceline-drafter index' makes one")
    try:
        return Resources(datastore=Datastore(datastore) if datastore else None)
    except PacelineError as error:
        raise StartupError(f"--datastore {datastore}: {error.message}") from error
