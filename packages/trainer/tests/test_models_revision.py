"""Revisions that are written of modules, and read back to train on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import small_drafters as small
import torch

from paceline.trainer.models import revision as subject
from paceline.trainer.models.comparison import Probe
from paceline.trainer.models.revision import read_module, read_vocabulary, write_revision
from paceline.trainer.models.weights import weights_of
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision_folder import FUSE, GRAPH, TOKENIZER, VOCABULARY, WEIGHTS, open_revision

MANIFEST = trainer_pb2.RevisionManifest(drafter="small", parent="p", model="m", metrics={"acceptance": 0.5})
IDS = list(range(1000, 1090))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("how", ["none", "int8"])
def test_a_decoder_with_a_tokenizer_comes_back(tmp_path: Path, how: str) -> None:
    module = small.decoder()
    out = tmp_path / "revision"
    written = write_revision(out, module, small.card_of(module, how), '{"x": 1}', MANIFEST, weights="float32")
    again, revision = read_module(out)
    assert revision.revision_id == written.revision_id
    assert {file.path for file in revision.manifest.files} == {"model.json", GRAPH, TOKENIZER, WEIGHTS}
    assert written.num_bytes == sum((out / file.path).stat().st_size for file in revision.manifest.files)
    assert revision.manifest.metrics["acceptance"] == 0.5
    assert 0.9 < revision.manifest.metrics["top1_agreement"] <= 1
    assert read_vocabulary(revision) == '{"x": 1}'
    for (name, some), other in zip(weights_of(module).items(), weights_of(again).values(), strict=True):
        np.testing.assert_array_equal(some, other, err_msg=name)


def test_a_feature_head_in_int8_is_trained_on_from_its_graphs(tmp_path: Path) -> None:
    module = small.feature_head()
    write_revision(tmp_path / "revision", module, small.card_of(module, "int8"), IDS, MANIFEST)
    again, revision = read_module(tmp_path / "revision")
    assert {file.path for file in revision.manifest.files} == {"model.json", GRAPH, FUSE, VOCABULARY}
    assert read_vocabulary(revision) == IDS
    assert isinstance(again, small.FeatureHead)
    again.fuse(torch.randn(2, 3 * 48)).sum().backward()
    assert again.fuse_proj.weight.grad is not None
    onnxruntime.InferenceSession(str(tmp_path / "revision" / GRAPH))


def test_the_comparison_is_made_on_the_probe(tmp_path: Path) -> None:
    module = small.feature_head()
    probe = Probe(np.arange(30).reshape(1, 30), np.ones((1, 30, 3 * 48), np.float32))
    card = small.card_of(module, "none")
    written = write_revision(tmp_path / "revision", module, card, IDS, MANIFEST, probe=probe)
    assert written.compared.top1_agreement == 1


def test_a_graph_that_is_not_its_module_is_never_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = small.decoder()
    card = small.card_of(module, "none")
    shape = replace(module.shape, rope_theta=500.0)
    monkeypatch.setattr(
        subject, "make_graphs", lambda *_: {GRAPH: subject.decoder_graph(card, shape, weights_of(module))}
    )
    with pytest.raises(PacelineError, match="off in a logit"):
        write_revision(tmp_path / "revision", module, card, "{}", MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_not_finite_leave_nothing(tmp_path: Path) -> None:
    module = small.decoder()
    with torch.no_grad():
        module.norm.weight[0] = torch.nan
    with pytest.raises(PacelineError, match="not finite"):
        write_revision(tmp_path / "revision", module, small.card_of(module, "int8"), "{}", MANIFEST)
    assert list(tmp_path.iterdir()) == []


def test_a_vocabulary_must_be_the_cards(tmp_path: Path) -> None:
    head, decoder = small.feature_head(), small.decoder()
    wrong = [(head, "{}"), (decoder, IDS), (head, IDS[:-1]), (head, [*IDS[:-1], IDS[0]]), (head, [-1, *IDS[1:]])]
    for module, vocabulary in wrong:
        with pytest.raises(PacelineError, match="vocabulary is") as caught:
            write_revision(tmp_path / "revision", module, small.card_of(module, "int8"), vocabulary, MANIFEST)
        assert caught.value.reason is Reason.UNUSABLE_REVISION
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_stays(tmp_path: Path) -> None:
    module = small.decoder()
    (tmp_path / "revision").mkdir()
    (tmp_path / "revision" / "mine").write_text("x")
    with pytest.raises(OSError, match="not empty"):
        write_revision(tmp_path / "revision", module, small.card_of(module, "int8"), "{}", MANIFEST)
    assert [path.name for path in tmp_path.rglob("*")] == ["revision", "mine"]


def test_a_damaged_revision_is_refused(tmp_path: Path) -> None:
    module = small.decoder()
    out = tmp_path / "revision"
    write_revision(out, module, small.card_of(module, "int8"), "{}", MANIFEST)
    content = bytearray((out / GRAPH).read_bytes())
    content[len(content) // 2] ^= 1
    (out / GRAPH).write_bytes(content)
    assert open_revision(out).card.vocab_size == 90
    with pytest.raises(PacelineError) as caught:
        read_module(out)
    assert caught.value.reason is Reason.HASH_MISMATCH
