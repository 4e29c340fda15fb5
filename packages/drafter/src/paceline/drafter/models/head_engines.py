"""What runs a feature head: native code where it can, ONNX Runtime everywhere.

The native engine doesn't run a head's graph but computes what such graphs are known to compute. So it takes the graph's
place only if it says the same of a few rows.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import structlog

from paceline.drafter.models.base import LanguageModel, LoadedModel, Rows, logits_of
from paceline.drafter.models.feature_head import FeatureHead, load_feature_head
from paceline.drafter.models.native_head import NativeFeatureHead, native_head
from paceline.drafter.models.onnx_session import give_memory_back, unusable
from paceline.drafter.native.build import load_library
from paceline.wire.errors import PacelineError
from paceline.wire.model_card import FeatureHeadCard
from paceline.wire.native.library import NoNativeCode
from paceline.wire.revision_folder import FUSE, GRAPH, open_revision

log = structlog.get_logger()

ENGINES = ("auto", "native", "onnx")
# Sums of bytes are exact, so the two differ where a number lies between two levels and is rounded otherwise.
MAX_DIFFERENCE = 0.05  # of the greatest logit
_TRIAL_ROWS = 3


def load_head(folder: Path, *, threads: int = 1, provider: str = "auto", engine: str = "auto") -> LoadedModel:
    """A head that is ready to draft.

    Args:
        engine: "onnx"; "native", which is refused where it can't be; or "auto", native where it can be.

    The other arguments and errors are those of `load_onnx`.
    """
    loaded = load_feature_head(folder, threads=threads, provider=provider)
    model = loaded.model
    assert isinstance(model, FeatureHead), "that is what it loads"
    if engine == "onnx" or (engine == "auto" and model.on_gpu):
        return loaded
    try:
        native = _native(folder, threads)
        _compare(native, model, loaded)
    except (NoNativeCode, PacelineError) as error:
        why = error.message if isinstance(error, PacelineError) else str(error)
        if engine == "native":
            raise unusable(f"it can't be run by native code: {why}; draft with --head-engine onnx") from error
        log.info("the head is run by ONNX Runtime", why=why)
        return loaded
    log.info("the head is run by native code", product=native.product)
    loaded = replace(loaded, model=native)
    del model
    give_memory_back()
    return loaded


def _native(folder: Path, threads: int) -> NativeFeatureHead:
    revision = open_revision(folder)
    card = revision.card
    assert isinstance(card, FeatureHeadCard), "the graph has been loaded by it"
    if card.quantization != "int8":
        raise unusable(f"its weights are not in int8 but {card.quantization}")
    return native_head(load_library(), revision.read(GRAPH), revision.read(FUSE), card, max(threads, 1))


def _compare(native: LanguageModel, graph: LanguageModel, loaded: LoadedModel) -> None:
    """Rows that are told by the target, then rows that are told by these."""
    assert loaded.needs is not None, "it is a head"
    chance = np.random.default_rng(0)
    told = chance.standard_normal((_TRIAL_ROWS, loaded.needs.width - loaded.needs.num_embedded)).astype(np.float32)
    caches = [model.new_cache() for model in (native, graph)]
    for features, above in ((told, None), (None, np.array([1, 2, 2]))):
        held = len(caches[0])
        tokens = chance.integers(0, graph.vocab_size, _TRIAL_ROWS)
        visible = np.tri(_TRIAL_ROWS, held + _TRIAL_ROWS, held, dtype=np.bool_)
        ours, theirs = (
            logits_of(model, [Rows(cache, tokens, held + np.arange(3), visible, (0, 1, 2), features, above)])[0]
            for model, cache in zip((native, graph), caches, strict=True)
        )
        if not np.abs(ours - theirs).max() <= MAX_DIFFERENCE * np.abs(theirs).max():
            raise unusable("its graph computes something else than native code")
