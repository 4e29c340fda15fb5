"""The drafters that come along: whole, small, made by a command that is told, and fit for the target they name."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import onnx
import pytest

from paceline.cli import drafters
from paceline.cli.drafters import HEADS, QUICK, drafters_for
from paceline.cli.stack import StackError
from paceline.drafter.models.feature_head import load_feature_head
from paceline.drafter.models.head_engines import load_head
from paceline.drafter.models.native_head import NativeFeatureHead
from paceline.drafter.models.onnx_lm import load_onnx
from paceline.drafter.native.build import load_library
from paceline.wire.errors import PacelineError
from paceline.wire.model_card import FeatureHeadCard
from paceline.wire.native.library import NoNativeCode
from paceline.wire.revision_folder import GRAPH, open_revision, seal

BUNDLES = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "packages" / "drafter" / "bundles"
REVISIONS = sorted(manifest.parent for manifest in BUNDLES.glob("*/*/manifest.json"))
MAX_BYTES = 16 << 20  # of all that are made for one target


def test_there_are_some_and_they_are_small() -> None:
    assert REVISIONS
    for target in {revision.parent for revision in REVISIONS}:
        assert sum(path.stat().st_size for path in target.rglob("*") if path.is_file()) <= MAX_BYTES


@pytest.mark.parametrize("folder", REVISIONS, ids=lambda folder: f"{folder.parent.name}/{folder.name}")
def test_each_is_whole_tells_how_it_was_made_and_loads(folder: Path) -> None:
    revision = open_revision(folder)
    assert revision.manifest.command.startswith("paceline-trainer bootstrap ")
    assert len(revision.manifest.tokenizer_hash) == len(revision.manifest.data) == 64
    assert 0.0 < revision.manifest.metrics["acceptance"] < 1.0
    load = load_feature_head if isinstance(revision.card, FeatureHeadCard) else load_onnx
    loaded = load(folder, threads=1)
    assert loaded.model.vocab_size == revision.card.vocab_size


HEAD = BUNDLES / "smollm2-135m-instruct" / "feature_head"


def test_native_code_runs_the_head_as_its_graph_says(tmp_path: Path) -> None:
    try:
        load_library()
    except NoNativeCode as error:
        pytest.skip(f"no native head here: {error}")
    assert isinstance(load_head(HEAD, engine="native").model, NativeFeatureHead)
    another = tmp_path / "head"
    shutil.copytree(HEAD, another)
    graph = onnx.load(str(another / GRAPH))
    for node in graph.graph.node:
        node.op_type = "Tanh" if node.op_type == "Sigmoid" else node.op_type
    onnx.save(graph, str(another / GRAPH))
    seal(another, open_revision(HEAD).manifest)
    assert not isinstance(load_head(another).model, NativeFeatureHead)
    with pytest.raises(PacelineError, match="something else"):
        load_head(another, engine="native")


def test_the_demo_takes_the_head_of_its_target_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StackError, match="no head comes along for somebody/else"):
        drafters_for("somebody/else", head=True)
    assert drafters_for("somebody/else") == QUICK
    for model in HEADS:
        assert drafters_for(model, head=False) == QUICK
        *quick, head = drafters_for(model, head=True)
        assert tuple(quick) == QUICK
        folder = Path(head.arguments[head.arguments.index("--revision") + 1])
        assert isinstance(open_revision(folder).card, FeatureHeadCard)
        monkeypatch.setenv("CXX", sys.executable)  # any program: nothing is compiled before a drafter starts
        for flags, expected in (({"avx512_vnni"}, (*QUICK, head)), ({"avx2"}, QUICK), (set(), QUICK)):
            monkeypatch.setattr(drafters, "processor", lambda flags=flags: ("a processor", flags))
            assert drafters_for(model) == expected
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CXX", raising=False)
        assert drafters_for(model) == QUICK  # nothing compiles its code
