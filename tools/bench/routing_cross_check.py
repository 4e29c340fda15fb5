"""Vowpal Wabbit on the same episodes, where it is installed: does another implementation find the same?

It isn't among this repository's dependencies. In an environment of one's own: pip install vowpalwabbit.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from rounds import BenchError
from routing_play import Chosen
from routing_run import Player
from routing_scenes import Episode

from paceline.router.arms import Arm

# Square-loss regression, inverse gap weighting; features of the prompt crossed with those of the arm.
ARGUMENTS = {
    "vw squarecb": "--cb_explore_adf --squarecb --gamma_scale 30 -q CA --cb_type mtr --random_seed {seed} --quiet",
    "vw epsilon": "--cb_explore_adf --epsilon 0.1 -q CA --cb_type mtr --random_seed {seed} --quiet",
}


def players() -> dict[str, Player]:
    """Raises BenchError if it isn't installed."""
    try:
        library = importlib.import_module("vowpalwabbit")
    except ImportError:
        raise BenchError("--cross-check needs vowpalwabbit, which isn't installed here: pip install it") from None
    return {name: _player(library, arguments) for name, arguments in ARGUMENTS.items()}


def _player(library: Any, arguments: str) -> Player:
    def play(episode: Episode, seed: int) -> Chosen:
        workspace = library.Workspace(arguments.format(seed=seed))
        random = np.random.default_rng([seed, 5])
        chosen = np.empty(len(episode.rewards), dtype=np.int64)
        for index, context in enumerate(episode.contexts):
            places = np.flatnonzero(episode.offered[index])
            shared = f"shared |C {' '.join(f'f{n}:{value:.4f}' for n, value in enumerate(context))}"
            arms = [_described(episode.arms[place]) for place in places]
            probabilities = np.array(workspace.predict([shared, *arms]))
            drawn = int(random.choice(len(places), p=probabilities / probabilities.sum()))
            chosen[index] = places[drawn]
            cost = -float(episode.rewards[index, places[drawn]])
            arms[drawn] = f"0:{cost:.4f}:{max(probabilities[drawn], 1e-6):.6f} {arms[drawn]}"
            workspace.learn([shared, *arms])
        workspace.finish()
        return chosen

    return play


def _described(arm: Arm) -> str:
    return f"|A {_word(arm.drafters)}_{arm.max_nodes}"


def _word(names: Sequence[str]) -> str:
    return "_".join(names) or "none"
