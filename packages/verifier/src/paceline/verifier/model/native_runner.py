"""Runs steps of Llama-like decoders on the CPU with the native decoder."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

from paceline.verifier.model.batch import ROOT, SessionPlan
from paceline.verifier.model.blocks import BlockPool
from paceline.verifier.model.decoder import DecoderWeights
from paceline.verifier.model.features import FeatureSource
from paceline.verifier.model.runner import Kept, Runner, Scores, compacted
from paceline.verifier.native.binding import NativeDecoder


class NativeRunner(Runner):
    """See `Runner`.

    Args:
        library: from `load_library`.
        weights: of the model; they are copied.
        num_threads: that compute.
        rule: name of the acceptance rule.
        tiles: see `NativeDecoder`.
    """

    max_session_rows = 512

    def __init__(
        self,
        library: ctypes.CDLL,
        weights: DecoderWeights,
        num_threads: int,
        rule: str = "coupled",
        tiles: bool = True,
    ) -> None:
        super().__init__(weights.config.vocab_size, rule)
        self.feature_source = FeatureSource(weights.config.num_layers, weights.config.hidden_size)
        self._decoder = NativeDecoder(library, weights, num_threads, tiles)
        self.product = self._decoder.product

    @property
    def block_bytes(self) -> int:
        return self._decoder.block_bytes

    def allocate(self, num_blocks: int, max_tokens: int | None = None) -> None:
        self.pool = BlockPool(num_blocks)
        self._decoder.allocate(num_blocks)

    def trim(self) -> None:
        self._decoder.forget(self.pool.untouched_again())

    def score(
        self,
        sessions: Sequence[SessionPlan],
        num_best: int,
        best_only: bool = False,
        feature_layers: tuple[int, ...] = (),
    ) -> Scores:
        tokens: list[int] = []
        parents: list[int] = []
        starts = [0]
        wanted: list[int] = []
        for session in sessions:
            num_chain = len(session.chain)
            if session.completes:
                wanted.extend(range(len(tokens) + num_chain - 1, len(tokens) + session.num_rows))
            tokens.extend((*session.chain, *session.tree_tokens))
            parents.extend(range(-1, num_chain - 1))
            parents.extend(num_chain - 1 if parent == ROOT else num_chain + parent for parent in session.tree_parents)
            starts.append(len(tokens))
        logits, best, features = self._decoder.forward(
            tokens,
            parents,
            starts,
            [session.slot.length for session in sessions],
            [session.slot.blocks for session in sessions],
            wanted,
            num_best,
            best_only,
            feature_layers,
        )
        return Scores(logits, best, features=features)

    def _keep(self, kept: Sequence[Kept]) -> None:
        for slot, sources, targets in compacted(kept):
            self._decoder.move(slot.blocks, sources, targets)
