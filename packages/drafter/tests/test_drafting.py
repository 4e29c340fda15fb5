"""A head at work in a drafter's process: put together from settings, linked to a verifier, beside other strategies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs
from tiny_heads import (
    CARD_OF_HEAD,
    CARD_OF_LM,
    FEATURES,
    IDS,
    LAYERS,
    TARGET_HIDDEN,
    VOCAB,
    Array,
    head_alone,
    save_head,
)

from paceline.drafter.drafting import DraftModel
from paceline.drafter.loading import Loader
from paceline.drafter.models.strategies import HEAD_SHAPE, USUAL_SHAPE
from paceline.drafter.presence import make_fleet
from paceline.drafter.revisions.check import check_successor
from paceline.drafter.service import make_drafting, make_identity
from paceline.drafter.settings import DrafterSettings
from paceline.v1 import drafting_pb2, types_pb2
from paceline.wire.errors import PacelineError
from paceline.wire.revision_folder import open_revision
from paceline.wire.settings import StartupError

PROMPT = [5, 8, 999, 11, 14, 7, 20]
PEER = types_pb2.Peer(protocol_major=1, protocol_minor=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For the fake verifier's tokenizer and for another one."""
    made = tmp_path_factory.mktemp("made")
    return {
        "head": save_head(made / "head", tokenizer_hash="h"),
        "lm": save_head(made / "lm", CARD_OF_LM, tokenizer_hash="h"),
        "foreign": save_head(made / "foreign", tokenizer_hash="another"),
    }


def settings_of(address: str = "", strategies: str = "feature_head", **more: Any) -> DrafterSettings:
    more = {"tree": "chain", "stopping": "fixed:3", "device": "cpu", "threads": 1} | more
    return DrafterSettings(drafter_id="d1", verifiers=address, strategies=strategies, **more)


@asynccontextmanager
async def drafting_for(address: str, **options: Any) -> AsyncIterator[list[DraftModel]]:
    settings = settings_of(address, **options)
    models = Loader(settings).models()
    identity = make_identity(settings, models)
    fleet = make_fleet(settings, lambda: identity, make_drafting(settings, models))
    for model in models:
        model.lane.start()
    fleet.update(())
    try:
        yield models
    finally:
        await fleet.close()
        for model in models:
            model.lane.stop()


class Target:
    """A text and what the target makes of its positions: any numbers do."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.text = list(PROMPT)
        self.features = np.random.default_rng(0).standard_normal((60, FEATURES)).astype(np.float32)
        self.features = (self.features.view(np.uint32) & 0xFFFF0000).view(np.float32)
        self.told = 0
        stream.open(1, self.text)

    def commit(self, tokens: list[int], **changes: Any) -> None:
        self.text += tokens
        values = self.features[self.told : len(self.text) - 1]
        message = {"first": self.told, "values": (values.view(np.uint32) >> 16).astype("<u2").tobytes()}
        self.told = len(self.text) - 1
        self.stream.commit(1, tokens, features=drafting_pb2.Features(**message | changes))

    def drafted(self, depth: int, start: int = 0) -> list[int]:
        """The head's chain, with a context whose first row is that of position start + 1."""
        ids = {int(token): index for index, token in enumerate(IDS)}
        tokens = [ids.get(token, VOCAB) for token in self.text[start + 1 :]]
        features: Array = self.features[start : len(self.text) - 1]
        found: list[int] = []
        for _ in range(depth):
            found.append(int(head_alone([*tokens, *found], features, len(found))[-1].argmax()))
        return IDS[found].tolist()


async def answer(stream: Any) -> list[drafting_pb2.DraftTree]:
    """All trees for the context as it is, up to the final one."""
    found: list[drafting_pb2.DraftTree] = []
    while not (found and found[-1].final):
        message = await stream.next()
        assert message is not None
        if stream.is_current(message.draft):
            found.append(message.draft)
    return found


async def test_a_head_drafts_from_what_the_verifier_tells(start_verifier: Any, folders: dict[str, Path]):
    verifier = await start_verifier(peer=PEER, hidden_size=TARGET_HIDDEN)
    async with drafting_for(verifier.address, revision=str(folders["head"])):
        stream = await verifier.stream()
        assert list(stream.hello.feature_layers) == list(LAYERS)
        target = Target(stream)
        assert not (await stream.draft()).tokens, "nothing has been told"
        for tokens in ([8], [999, 5], target.text[:1]):
            target.commit(tokens)
            draft = await stream.draft()
            assert stream.is_current(draft)
            assert list(draft.tokens) == target.drafted(len(draft.tokens))
            assert len(draft.tokens) == 3


async def test_states_that_can_not_be_used_cost_the_heads_context_and_nothing_else(
    start_verifier: Any, folders: dict[str, Path]
):
    verifier = await start_verifier(peer=PEER, hidden_size=TARGET_HIDDEN)
    async with drafting_for(verifier.address, revision=str(folders["head"]), strategies="suffix,feature_head"):
        stream = await verifier.stream()
        target = Target(stream)
        with capture_logs() as logs:
            for bad in (b"\0", b"\xff" * 2 * FEATURES, b"\0" * 2 * FEATURES * 50):
                target.commit([8], values=bad)
                await answer(stream)
        assert [line["event"] for line in logs].count("bad features from verifier") == 3
        start = target.told
        target.commit([5, 11])
        draft = (await answer(stream))[-1]
        assert len(draft.tokens) == 3
        assert list(draft.tokens) == target.drafted(len(draft.tokens), start)


@pytest.mark.parametrize(
    ("revision", "hidden_size", "why"),
    [("head", 0, "sends no features"), ("head", 4, "of 4"), ("foreign", TARGET_HIDDEN, "another target")],
)
async def test_where_a_head_can_not_draft_others_go_on(
    start_verifier: Any, folders: dict[str, Path], revision: str, hidden_size: int, why: str
):
    verifier = await start_verifier(peer=PEER, hidden_size=hidden_size)
    with capture_logs() as logs:
        async with drafting_for(verifier.address, revision=str(folders[revision]), strategies="suffix,feature_head"):
            stream = await verifier.stream()
            stream.open(1, [1, 2, 3, 1, 2])
            assert (await stream.draft()).tokens[0] == 3
    (refused,) = [line for line in logs if line["log_level"] == "error"]
    assert refused["strategy"] == "feature_head"
    assert why in refused["why"]


async def test_alone_it_leaves_a_verifier_that_it_can_not_draft_for(
    start_verifier: Any, folders: dict[str, Path], eventually: Any
):
    verifier = await start_verifier(peer=PEER)
    with capture_logs() as logs:
        async with drafting_for(verifier.address, revision=str(folders["head"])):
            await eventually(lambda: any(line["event"] == "no stream to verifier" for line in logs))
    assert verifier.num_attempts == 1, "nothing will change soon"


async def test_a_language_model_with_a_cut_vocabulary_needs_no_tokenizer(start_verifier: Any, folders: dict[str, Path]):
    """The fake verifier hasn't got one."""
    verifier = await start_verifier(peer=PEER)
    async with drafting_for(verifier.address, revision=str(folders["lm"]), strategies="onnx_lm"):
        stream = await verifier.stream()
        assert not stream.hello.feature_layers
        stream.open(1, PROMPT)
        draft = await stream.draft()
        assert len(draft.tokens) == 3
        assert set(draft.tokens) <= set(IDS.tolist())


async def test_each_strategy_takes_the_revision_that_is_made_for_it(start_verifier: Any, folders: dict[str, Path]):
    verifier = await start_verifier(peer=PEER, hidden_size=TARGET_HIDDEN)
    both = f"{folders['head']},{folders['lm']}"
    async with drafting_for(verifier.address, revision=both, strategies="onnx_lm,feature_head"):
        stream = await verifier.stream()
        target = Target(stream)
        await answer(stream)
        target.commit([8])
        trees = await answer(stream)
        assert {index for tree in trees for index in tree.strategy} == {0, 1}


async def test_another_head_takes_over_while_a_session_goes_on(start_verifier: Any, folders: dict[str, Path]):
    """And knows what the one before was told."""
    verifier = await start_verifier(peer=PEER, hidden_size=TARGET_HIDDEN)
    revision = str(folders["head"])
    async with drafting_for(verifier.address, revision=revision) as (model,):
        stream = await verifier.stream()
        target = Target(stream)
        target.commit([8])
        await answer(stream)
        await model.swap(Loader(settings_of(revision=revision)).work("feature_head"))
        target.commit([5, 11])
        draft = (await answer(stream))[-1]
        assert len(draft.tokens) == 3
        assert list(draft.tokens) == target.drafted(3)


def test_a_head_that_wants_other_layers_does_not_take_over(folders: dict[str, Path], tmp_path: Path):
    other = save_head(tmp_path / "other", replace(CARD_OF_HEAD, feature_layers=(2, 6)), tokenizer_hash="h")
    before = open_revision(folders["head"])
    check_successor(before, before, {"feature_head"}, ())
    with pytest.raises(PacelineError, match=r"\(2, 6\)"):
        check_successor(open_revision(other), before, {"feature_head"}, ())


def test_a_line_is_followed_by_strategies_of_one_kind():
    with pytest.raises(ValueError, match="its own process"):
        settings_of(strategies="onnx_lm,feature_head", trainer="localhost:1", line="x")


@pytest.mark.parametrize(
    ("strategies", "revisions", "why"),
    [
        ("feature_head", (), "needs a revision"),
        ("feature_head", ("lm",), "0 are a feature_head"),
        ("onnx_lm", ("head",), "0 are a causal_lm"),
        ("feature_head", ("head", "foreign"), "2 are a feature_head"),
        ("feature_head,cascade", ("head",), "needs a model"),
    ],
)
def test_revisions_that_do_not_fit_the_strategies_are_refused(
    folders: dict[str, Path], strategies: str, revisions: tuple[str, ...], why: str
):
    revision = ",".join(str(folders[name]) for name in revisions)
    with pytest.raises(StartupError, match=why):
        Loader(settings_of(strategies=strategies, revision=revision)).models()


def test_trees_have_the_shape_that_suits_the_strategy_unless_it_is_set():
    settings = settings_of(strategies="feature_head,onnx_lm")
    assert (settings.shape("feature_head"), settings.shape("onnx_lm")) == (HEAD_SHAPE, USUAL_SHAPE)
    set_by_hand = settings_of(tree_width=3, tree_depth=2).shape("feature_head")
    assert (set_by_hand.width, set_by_hand.depth) == (3, 2)
