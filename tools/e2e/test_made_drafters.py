"""What a trainer says of a drafter that it made is what the drafter does when it serves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_target import make_tiny_target

from paceline.drafter.models.base import LanguageModel, Rows
from paceline.drafter.models.onnx_lm import load_onnx
from paceline.drafter.vocabulary.ngram_cache import NgramCache, NgramCacheBridge
from paceline.trainer.data.rows import READINGS, Reading
from paceline.trainer.data.shards import Shards
from paceline.trainer.models.revision import read_module
from paceline.trainer.recipes.alignment import Aligner
from paceline.trainer.recipes.command import bootstrap
from paceline.trainer.recipes.judging import ranks_of
from paceline.trainer.recipes.settings import BootstrapSettings
from paceline.wire.vocabulary.tokenizer_json import TokenizerVocabulary

torch.set_num_threads(1)

WORDS = ("fox", "dog", "farm", "village", "river", "bridge", "numbers", "time")
MAX_DRAFTED = 6  # tokens of the drafter, of which one of the target's comes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a target, a drafter with a vocabulary of its own, and what it learnt from."""
    folder = tmp_path_factory.mktemp("made")
    lines = [json.dumps({"id": n, "prompt": f"{word} {n} the {word}"}) for n, word in enumerate(WORDS * 4)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    settings = BootstrapSettings(
        target=str(make_tiny_target(folder / "target")),
        prompts=folder / "prompts.jsonl",
        recipe="tiny_lm",
        out=folder / "out",
        work=folder / "work",
        max_tokens=24,
        max_prompt_tokens=200,
        vocabulary=400,
        width=64,
        layers=2,
        epochs=80,
        pretrain_epochs=40,
        learning_rate=0.02,
        batch_tokens=512,
        held_out=0.1,
        threads=1,
        log_level="error",
    )
    assert bootstrap(settings) == 0
    return folder


def test_the_judged_acceptance_is_that_of_a_drafter_that_serves(made: Path) -> None:
    loaded = load_onnx(made / "out", threads=1)
    tokenizer_json = (made / "target" / "tokenizer.json").read_text()
    kind = NgramCache(TokenizerVocabulary(tokenizer_json), TokenizerVocabulary(loaded.tokenizer_json))
    module, _ = read_module(made / "out")
    target, own = TokenizerVocabulary(tokenizer_json), TokenizerVocabulary(loaded.tokenizer_json)
    aligner = Aligner(target, target.size, own)
    judged: list[bool] = []
    served: list[bool] = []
    readings = list(Shards(made / "work" / "readings", READINGS))
    for reading in readings[:4]:  # a drafter learns what the target's tokens are called in its own
        served_share(kind, loaded.model, reading)
    for reading in readings[4:16]:
        judged += (ranks_of(module, aligner.text(reading)) == 0).tolist()
        served += served_share(kind, loaded.model, reading)
    assert len(judged) == len(served)
    assert np.mean(judged) > 0.5  # or there would be nothing to compare
    agreeing = np.mean([one == other for one, other in zip(judged, served, strict=True)])
    assert agreeing > 0.9


def served_share(kind: NgramCache, model: LanguageModel, reading: Reading) -> list[bool]:
    """Of each token of the answer, whether the drafter would have proposed it first."""
    bridge = kind.begin(reading.answer.prompt_ids.tolist())
    found = []
    for token in reading.answer.answer_ids.tolist():
        found.append(first_choice(kind, bridge, model) == token)
        bridge.observe([token])
    return found


def first_choice(kind: NgramCache, bridge: NgramCacheBridge, model: LanguageModel) -> int | None:
    """The target's token that a chain of the drafter's best tokens begins with."""
    drafted: list[int] = []
    held = bridge._text.held  # bytes of a character that the target has begun
    while len(drafted) < MAX_DRAFTED:
        tokens = np.array([*bridge.context, *drafted], np.int64)
        length = len(tokens)
        visible = np.tril(np.ones((length, length), bool))
        rows = Rows(model.new_cache(), tokens, np.arange(length), visible, (length - 1,))
        logits = model.score([rows])[0][0]
        if bridge.allowed is not None:
            logits = np.where(bridge.allowed, logits, -np.inf)
        drafted.append(int(logits.argmax()))
        said = kind.spell(held, drafted).tokens
        if len(said) > 1:  # the first one stands: longer runs don't begin with it
            break
    said = kind.spell(held, drafted).tokens
    return said[0] if said else None
