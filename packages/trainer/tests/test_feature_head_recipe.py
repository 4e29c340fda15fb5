"""From a target and its answers to a revision that a drafter can serve and a trainer can go on from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tiny_targets import EOS, HIDDEN, LAYERS, SHAPE, VOCAB, random_answers, tiny_target
from transformers import LlamaConfig

from paceline.trainer.data.reading import Wanted, read, reading_origin
from paceline.trainer.data.rows import READINGS, Reading
from paceline.trainer.data.shards import Shards, ShardWriter
from paceline.trainer.data.target import Target
from paceline.trainer.models.feature_head import FeatureHead
from paceline.trainer.models.revision import read_module, read_vocabulary
from paceline.trainer.recipes.feature_head import HeadRecipe, evaluate, publish, read_parent, split_texts, train
from paceline.trainer.recipes.head_start import HeadSize, common_tokens, head_shape, make_teacher, start_head
from paceline.trainer.training.head_task import HeadObjective
from paceline.trainer.training.loop import LoopSettings
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError
from paceline.wire.model_card import FeatureHeadCard
from paceline.wire.revision_folder import CARD, open_revision

torch.set_num_threads(1)
WANTED = Wanted(top_k=1, layers=(1, LAYERS), window=16)
RECIPE = HeadRecipe(
    size=HeadSize(vocab_size=100, intermediate=24),
    objective=HeadObjective(depth=3, shallow_steps=20, greedy_share=0.0, batch_starts=64),
    loop=LoopSettings(num_steps=60, learning_rate=1e-2, warmup_steps=5, checkpoint_every=20),
    held_out=0.2,
)

SHORT = replace(RECIPE.loop, num_steps=4)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return tiny_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def readings(target: Target, tmp_path_factory: pytest.TempPathFactory) -> Shards[Reading]:
    return write_readings(tmp_path_factory.mktemp("readings"), target, WANTED)


def write_readings(folder: Path, target: Target, wanted: Wanted) -> Shards[Reading]:
    origin = {"model": "tiny", "tokenizer_hash": target.tokenizer_hash, "vocab_size": target.vocab_size}
    with ShardWriter(folder, READINGS, reading_origin(origin, target, wanted)) as writer:
        writer.write(read(target, random_answers(60), wanted))
    return Shards(folder, READINGS)


def test_a_head_is_trained_published_and_read_back(target: Target, readings: Shards[Reading], tmp_path: Path) -> None:
    made = train(target, readings, RECIPE, tmp_path / "run", Accelerator(cpu=True))
    written = publish(made, target, trainer_pb2.RevisionManifest(drafter="head", command="test"), tmp_path / "out")
    metrics = written.manifest.metrics
    assert metrics["tokens_per_step"] == pytest.approx(evaluate(made.head, made.held_out, 5).tokens_per_step)
    assert metrics["top1_agreement"] > 0.9
    assert written.manifest.tokenizer_hash == target.tokenizer_hash
    module, revision = read_module(tmp_path / "out")
    assert read_vocabulary(revision) == made.vocabulary.tolist()
    assert isinstance(revision.card, FeatureHeadCard)
    assert (revision.card.feature_layers, revision.card.target_hidden_size) == ((1, LAYERS), HIDDEN)
    assert revision.card.window == made.window <= 16 + 20
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(parameter, made.head.get_parameter(name), rtol=1e-2, atol=1e-6)


def test_a_head_borrows_if_the_targets_output_is_its_embedding(
    target: Target, readings: Shards[Reading], tmp_path: Path
) -> None:
    tied = tiny_target(tmp_path / "tied", LlamaConfig(**SHAPE, tie_word_embeddings=True))
    assert tied.is_tied
    assert not target.is_tied
    made = train(target, readings, replace(RECIPE, loop=SHORT), tmp_path / "plain", Accelerator(cpu=True))
    assert not made.borrows
    assert all(text.borrowed is None for text in made.held_out)
    own = write_readings(tmp_path / "readings", tied, WANTED)
    made = train(tied, own, replace(RECIPE, loop=SHORT), tmp_path / "run", Accelerator(cpu=True))
    assert made.borrows
    assert any(int(text.ids.max()) > len(made.vocabulary) for text in made.held_out)
    written = publish(made, tied, trainer_pb2.RevisionManifest(drafter="head", command="test"), tmp_path / "out")
    assert written.manifest.metrics["top1_agreement"] > 0.9
    revision = open_revision(tmp_path / "out")
    assert isinstance(revision.card, FeatureHeadCard)
    assert revision.card.borrows
    assert json.loads(revision.read(CARD))["version"] == 3
    parent = read_parent(tmp_path / "out", tied)
    assert torch.equal(parent.head.norm.weight, made.head.norm.weight.bfloat16().float())


def test_training_again_in_the_same_folder_takes_what_is_there(
    target: Target, readings: Shards[Reading], tmp_path: Path
) -> None:
    first = train(target, readings, RECIPE, tmp_path, Accelerator(cpu=True))
    again = train(target, readings, RECIPE, tmp_path, Accelerator(cpu=True))
    assert torch.equal(first.head.mix_proj.weight, again.head.mix_proj.weight)
    assert first.trained == again.trained


def test_readings_must_end_with_the_layer_that_teaches(target: Target, tmp_path: Path) -> None:
    readings = write_readings(tmp_path / "readings", target, replace(WANTED, layers=(1, 2)))
    with pytest.raises(PacelineError, match=f"end with its last, {LAYERS}"):
        train(target, readings, RECIPE, tmp_path / "run", Accelerator(cpu=True))


@torch.no_grad()
def test_the_teacher_is_the_target_on_the_heads_vocabulary(target: Target) -> None:
    """Up to the rounding of features to bfloat16."""
    (reading,) = read(target, random_answers(1), WANTED)
    vocabulary = np.array([3, 200, EOS, 17], np.uint32)
    ids = np.concatenate([reading.answer.prompt_ids, reading.answer.answer_ids])[None]
    expected = target.model(input_ids=torch.from_numpy(ids).long()).logits[0, reading.first :, vocabulary.tolist()]
    features = torch.from_numpy(reading.features).view(torch.bfloat16).flatten(1)
    torch.testing.assert_close(make_teacher(target, vocabulary)(features), expected, rtol=0.02, atol=0.1)


def test_texts_line_up_with_what_was_read(target: Target) -> None:
    """A row's features are those of the position before its token."""
    readings = read(target, random_answers(9), WANTED)
    vocabulary = np.arange(5, VOCAB, dtype=np.uint32)
    learnt, kept = split_texts(readings, vocabulary, target, 0.0)
    usable = [row for row in readings if len(row.answer.prompt_ids) - row.first >= 2 and len(row.answer.answer_ids) > 0]
    assert not kept
    assert len(learnt) == len(usable)
    for text, reading in zip(learnt, usable, strict=True):
        ids = np.concatenate([reading.answer.prompt_ids, reading.answer.answer_ids])
        own = [int(token) - 5 if token >= 5 else len(vocabulary) for token in ids[reading.first :]]
        assert text.ids.tolist() == own
        start = text.starts[0]  # the row of the prompt's last token, after which the answer's first comes
        assert text.first + start + 1 == len(reading.answer.prompt_ids) - 1
        assert text.ids[start + 2] == own[text.answer]
        assert text.starts[-1] + 2 == len(text.ids) - 1
        assert torch.equal(text.features.view(torch.uint16).flatten(), torch.from_numpy(reading.features).flatten())


def test_the_commonest_tokens_are_kept_and_those_that_end_answers(target: Target) -> None:
    answers = random_answers(40)
    found = common_tokens(answers, target, 50).tolist()
    assert found[0] == EOS
    counts = np.zeros(VOCAB)
    for answer in answers:
        np.add.at(counts, answer.answer_ids, 5)
        np.add.at(counts, answer.prompt_ids, 1)
    assert counts[found[1:]].min() >= np.delete(counts, found).max()


@torch.no_grad()
def test_a_head_starts_with_the_targets_embeddings_and_is_unsure(target: Target) -> None:
    vocabulary = np.array([7, 3, 200, EOS], np.uint32)
    texts, _ = split_texts(read(target, random_answers(30), WANTED), vocabulary, target, 0.0)
    heads = [FeatureHead(head_shape(target, 2, 4, 24)) for _ in range(3)]
    for head, seed in zip(heads, (0, 0, 1), strict=True):
        start_head(head, target, vocabulary, texts, seed)
    assert torch.equal(heads[0].embed_tokens.weight[:4], target.embedding[[7, 3, 200, EOS]])
    assert torch.equal(heads[0].mix_proj.weight, heads[1].mix_proj.weight)
    assert not torch.equal(heads[0].mix_proj.weight, heads[2].mix_proj.weight)
    features = torch.cat([text.features.float() for text in texts])
    even = (heads[0].scaled(features) - heads[0].feature_mean) * heads[0].feature_scale
    assert even.mean(0).abs().max() < 0.5
    assert 0.5 < even.std(0).min() < even.std(0).max() < 2
    rows = torch.randn(50, HIDDEN)
    assert heads[0].logits(rows).std() < 0.5 * (torch.nn.functional.linear(rows, target.embedding)).std()
