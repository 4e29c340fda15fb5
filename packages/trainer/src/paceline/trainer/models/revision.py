"""A drafter's module as a revision's folder, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from paceline.trainer.models.comparison import Compared, Probe, compare, random_probe
from paceline.trainer.models.decoder import Decoder
from paceline.trainer.models.feature_head import FeatureHead
from paceline.trainer.models.graph import Weights, decoder_graph, feature_head_graph, fuse_graph
from paceline.trainer.models.shapes import make_module, parameter_shapes
from paceline.trainer.models.weights import (
    load_weights,
    read_graphs,
    read_safetensors,
    read_shape,
    weights_of,
    write_safetensors,
)
from paceline.v1 import trainer_pb2
from paceline.wire.model_card import FeatureHeadCard, LanguageModelCard, card_json
from paceline.wire.revision import revision_id, unusable
from paceline.wire.revision_folder import (
    CARD,
    FORMAT,
    FUSE,
    GRAPH,
    LIMITS,
    TOKENIZER,
    VOCABULARY,
    WEIGHTS,
    Revision,
    new_folder,
    open_revision,
    seal,
)

MAX_FLOAT_DIFFERENCE = 1e-3  # of the logits' spread: sums in another order

Vocabulary = str | Sequence[int]
"""A tokenizer.json, or of a cut vocabulary the target's id of each token."""


@dataclass(frozen=True, slots=True)
class Written:
    """A revision that is on disk, and how its graph did on the probe."""

    manifest: trainer_pb2.RevisionManifest
    compared: Compared

    @property
    def revision_id(self) -> str:
        return revision_id(self.manifest)

    @property
    def num_bytes(self) -> int:
        """Of all its files but the manifest."""
        return sum(file.size for file in self.manifest.files)


def write_revision(
    out: Path,
    module: nn.Module,
    card: LanguageModelCard,
    vocabulary: Vocabulary,
    manifest: trainer_pb2.RevisionManifest,
    *,
    weights: str | None = None,
    probe: Probe | None = None,
) -> Written:
    """Writes a folder, whole or not at all. The graph is run against the module before the folder is there.

    Args:
        out: the folder; must not be there, or be empty.
        module: a `Decoder` or a `FeatureHead`, on the CPU, float32.
        card: as `graph.decoder_card` or `graph.feature_head_card` make it.
        vocabulary: a tokenizer.json, or if the card says that the vocabulary is cut the target's ids.
        manifest: whose it is, parent, model, tokenizer_hash, command, data and metrics; files and format are set here.
        weights: write weights.safetensors too, of that type (`weights.DTYPES`); without, one trains on from the graph.
        probe: real text to compare on, so that the metrics say how good int8 is.

    Raises:
        PacelineError: UNUSABLE_REVISION: weights that aren't finite, a graph that does not do what the module does, too
            large, or a vocabulary that isn't the card's.
        OSError: the disk.
    """
    found = weights_of(module)
    graphs = make_graphs(module, card, found)
    files = {CARD: card_json(card), **graphs, **_vocabulary_file(card, vocabulary)}
    if weights is not None:
        files[WEIGHTS] = write_safetensors(found, weights)
    for name, content in files.items():
        if len(content) > LIMITS[name]:
            raise unusable(name, f"{len(content)} bytes", f"at most {LIMITS[name]} bytes; make the model smaller")
    compared = compare(card, module, graphs, probe or random_probe(card))
    difference, allowed = compared.max_logit_difference, MAX_FLOAT_DIFFERENCE * compared.logit_spread
    if card.quantization == "none" and not difference <= allowed:
        raise unusable(GRAPH, f"{difference:.2g} off in a logit", f"at most {allowed:.2g} off its module; report this")
    listed = trainer_pb2.RevisionManifest()
    listed.CopyFrom(manifest)
    listed.format = FORMAT
    listed.metrics["top1_agreement"] = compared.top1_agreement
    listed.metrics["max_logit_difference"] = difference
    with new_folder(out) as folder:
        for name, content in files.items():
            (folder / name).write_bytes(content)
        sealed = seal(folder, listed)
    return Written(sealed, compared)


def make_graphs(module: nn.Module, card: LanguageModelCard, weights: Weights) -> dict[str, bytes]:
    """A module's graphs by file name."""
    if isinstance(module, Decoder):
        return {GRAPH: decoder_graph(card, module.shape, weights)}
    assert isinstance(module, FeatureHead)
    assert isinstance(card, FeatureHeadCard)
    shape = module.shape
    return {GRAPH: feature_head_graph(card, shape, weights), FUSE: fuse_graph(card, shape, weights)}


def _vocabulary_file(card: LanguageModelCard, vocabulary: Vocabulary) -> dict[str, bytes]:
    if isinstance(vocabulary, str):
        if card.cut_vocabulary:
            raise unusable("vocabulary", "a tokenizer", "the target's ids: the card says that it is cut")
        return {TOKENIZER: vocabulary.encode()}
    if not card.cut_vocabulary:
        raise unusable("vocabulary", "ids", "a tokenizer.json: the card says that it is not cut")
    ids = np.asarray(vocabulary, np.int64)
    if ids.shape != (card.vocab_size,) or len(np.unique(ids)) != len(ids) or ids.min() < 0 or ids.max() >= 1 << 32:
        raise unusable("vocabulary", f"{ids.size} ids", f"{card.vocab_size} different ids of the target")
    return {VOCABULARY: ids.astype("<u4").tobytes()}


def read_vocabulary(revision: Revision) -> Vocabulary:
    """What `write_revision` was given."""
    if not revision.card.cut_vocabulary:
        try:
            return revision.read(TOKENIZER).decode()
        except UnicodeDecodeError as error:
            raise unusable(TOKENIZER, "not UTF-8", "so; take another revision") from error
    content = revision.read(VOCABULARY)
    if len(content) != 4 * revision.card.vocab_size:
        raise unusable(VOCABULARY, f"{len(content)} bytes", f"{4 * revision.card.vocab_size}")
    return [int(token) for token in np.frombuffer(content, "<u4")]


def read_module(folder: Path) -> tuple[nn.Module, Revision]:
    """A module to train on, of a folder that `write_revision` wrote; from its graphs if it has no other weights.

    Raises:
        PacelineError: HASH_MISMATCH for a damaged file, UNUSABLE_REVISION for one that this trainer didn't write or
            that isn't what it says.
    """
    revision = open_revision(folder)
    names = (GRAPH, FUSE) if isinstance(revision.card, FeatureHeadCard) else (GRAPH,)
    graphs = [revision.read(name) for name in names]
    shape = read_shape(graphs[0], revision.card)
    shapes = parameter_shapes(shape)
    module = make_module(shape)
    own = revision.has(WEIGHTS)
    load_weights(module, read_safetensors(revision.read(WEIGHTS), shapes) if own else read_graphs(graphs, shapes))
    return module, revision
