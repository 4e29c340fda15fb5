"""What a policy's choices came to: pure arithmetic on episodes and chosen arms.

Regret is the share of speed that was missed: 1 - the yardstick's time over the time that the chosen arms may be
expected to take. The yardstick is the oracle, the best arm of each segment; or the best fixed arm, the one that would
have been best for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from routing_play import Chosen
from routing_scenes import Episode, Table

POINTS = 40  # of a curve


def regret(episode: Episode, chosen: Chosen) -> float:
    """Against the oracle."""
    return 1.0 - float(_times(episode.of_oracle).sum() / _times(_earned(episode, chosen)).sum())


def against_best_fixed(episode: Episode, chosen: Chosen) -> float:
    """Negative where no fixed arm would have done as well."""
    return 1.0 - float(_times(episode.of_fixed).sum(axis=0).min() / _times(_earned(episode, chosen)).sum())


def best_fixed_regret(episode: Episode) -> tuple[str, float]:
    """The best fixed arm and its regret against the oracle."""
    totals = _times(episode.of_fixed).sum(axis=0)
    best = int(np.argmin(totals))
    return str(episode.arms[best]), max(0.0, 1.0 - float(_times(episode.of_oracle).sum() / totals[best]))


def curve(episode: Episode, chosen: Chosen) -> Table:
    """Regret against the oracle up to each of `points_of` segments."""
    taken, possible = np.cumsum(_times(_earned(episode, chosen))), np.cumsum(_times(episode.of_oracle))
    ends = points_of(len(taken)) - 1
    curve: Table = 1.0 - possible[ends] / taken[ends]
    return curve


def points_of(num_segments: int) -> Table:
    """After how many segments a curve has its points."""
    return np.unique(np.linspace(1, num_segments, min(POINTS, num_segments)).round().astype(int))


def share_of(name: str, episode: Episode, chosen: Chosen) -> float:
    """Of segments that a drafter had a part in."""
    has = np.array([name in arm.drafters for arm in episode.arms])
    return float(has[chosen].mean())


def summary(episodes: Sequence[Episode], chosen: Sequence[Chosen]) -> dict[str, Any]:
    """Medians over seeds, and the least and greatest regret."""
    regrets = [regret(episode, one) for episode, one in zip(episodes, chosen, strict=True)]
    fixed = [against_best_fixed(episode, one) for episode, one in zip(episodes, chosen, strict=True)]
    return {
        "regret": round(float(np.median(regrets)), 4),
        "share_of_oracle": round(1.0 - float(np.median(regrets)), 4),
        "regret_against_best_fixed": round(float(np.median(fixed)), 4),
        "spread": [round(min(regrets), 4), round(max(regrets), 4)],
    }


def summary_of_fixed(episodes: Sequence[Episode]) -> dict[str, Any]:
    """The same for the best fixed arm of each episode, which nobody knows beforehand."""
    found = [best_fixed_regret(episode) for episode in episodes]
    regrets = [value for _name, value in found]
    return {
        "regret": round(float(np.median(regrets)), 4),
        "share_of_oracle": round(1.0 - float(np.median(regrets)), 4),
        "regret_against_best_fixed": 0.0,
        "spread": [round(min(regrets), 4), round(max(regrets), 4)],
        "arm": found[0][0],
    }


def _times(rewards: Table) -> Table:
    """Of segments, where plain decoding takes 1."""
    times: Table = 2.0 - rewards
    return times


def _earned(episode: Episode, chosen: Chosen) -> Table:
    earned: Table = np.take_along_axis(episode.expected, chosen[:, None], axis=1)[:, 0]
    return earned
