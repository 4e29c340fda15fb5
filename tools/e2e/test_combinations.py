"""Every way to draft, through a real verifier: strategies, vocabulary bridges, tree policies, stopping rules.

The verifier is a process; drafters are streams from here to it, since several hundred processes would take an hour.
Whatever drafts, the text is the one without.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from draft_models import foreign, relabelled
from tiny_target import make_tiny_target

from paceline.cli.measure import Answer, ask
from paceline.cli.stack import Stack
from paceline.drafter.drafting import Drafting, Workload, draft_model
from paceline.drafter.growing import Growth
from paceline.drafter.identity import Identity
from paceline.drafter.link import Link
from paceline.drafter.memory import Memory
from paceline.drafter.models.base import LoadedModel
from paceline.drafter.models.export import ExportSettings, export
from paceline.drafter.models.onnx_lm import load_onnx
from paceline.drafter.models.torch_lm import load_torch
from paceline.drafter.settings import make_rule
from paceline.drafter.stopping import STOPPING_RULES
from paceline.drafter.strategies import STRATEGIES, open_resources
from paceline.drafter.trees import TREES
from paceline.drafter.trees.ahead import Ahead
from paceline.drafter.trees.base import Shape
from paceline.drafter.vocabulary import BRIDGES
from paceline.v1 import generation_pb2, types_pb2, verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

MAX_TOKENS = 20
CONNECT_S = 30.0
PROMPTS = ("the quick brown fox", "once upon a time there was a é")
TEMPERATURES = (0.0, 0.8)
SHAPE = Shape(width=3, depth=4)
BY_CHANCE = 1 / 320  # of a candidate, in the target's vocabulary

# What each bridge joins to the target; making an ONNX graph takes a while, so there are two of those.
MODELS = {"identity": "same", "intersection": "relabelled", "string_exact": "foreign", "ngram_cache": "foreign"}
ONNX_MODELS = MODELS | {"intersection": "foreign"}


class Deployment:
    """A verifier, draft models, and what the target says by itself."""

    def __init__(self, address: str, models: dict[tuple[str, str], LoadedModel]) -> None:
        self.address = address
        self.models = models
        self.plain: dict[tuple[str, float], Answer] = {}

    async def answers(self, **speculation: Any) -> dict[tuple[str, float], Answer]:
        async with connect(self.address, ClientSettings()) as channel:
            stub = verifier_pb2_grpc.VerifierStub(channel)
            asked = {
                (prompt, temperature): ask(
                    stub,
                    generation_pb2.GenerateRequest(
                        text=prompt,
                        sampling=types_pb2.Sampling(temperature=temperature, seed=3),
                        limits=types_pb2.Limits(max_tokens=MAX_TOKENS, ignore_eos=True),
                        speculation=types_pb2.Speculation(**speculation),
                        tenant="somebody",
                    ),
                )
                for prompt in PROMPTS
                for temperature in TEMPERATURES
            }
            return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))

    @asynccontextmanager
    async def drafting(self, name: str, drafting: Drafting, strategies: tuple[str, ...]) -> Any:
        """A drafter with this name at the verifier, for as long as the block runs."""
        top_k = max((STRATEGIES[strategy].commit_top_k for strategy in strategies if strategy in STRATEGIES), default=0)
        identity = Identity(name, name, strategies, top_k)
        link = Link(self.address, ClientSettings(), lambda: identity, drafting.sessions, random.random)
        running = asyncio.create_task(link.run())
        try:
            await self._connected(name)
            yield
        finally:
            await link.close()
            await running

    async def _connected(self, name: str) -> None:
        async with connect(self.address, ClientSettings()) as channel, asyncio.timeout(CONNECT_S):
            stub = verifier_pb2_grpc.VerifierStub(channel)
            while True:
                model = await stub.GetModel(verifier_pb2.GetModelRequest())
                if name in {drafter.drafter_id for drafter in model.drafters}:
                    return
                await asyncio.sleep(0.01)

    def check(self, answers: dict[tuple[str, float], Answer]) -> Counter[str]:
        """The text is the same to the token; returns what was proposed and accepted."""
        counts: Counter[str] = Counter()
        for asked, answer in answers.items():
            assert answer.ids == self.plain[asked].ids
            assert answer.text == self.plain[asked].text
            for proposed, accepted in answer.drafters.values():
                counts["proposed"] += proposed
                counts["accepted"] += accepted
        return counts


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("combinations")
    target = make_tiny_target(folder / "same")
    folders = {
        "same": target,
        "relabelled": relabelled(target, folder / "relabelled"),
        "foreign": foreign(folder / "foreign"),
    }
    models: dict[tuple[str, str], LoadedModel] = {}
    for kind, path in folders.items():
        models["causal_lm", kind] = load_torch(str(path), device="cpu", dtype="float32", threads=1)
    for kind in set(ONNX_MODELS.values()):
        revision = folder / f"{kind}.onnx"
        assert export(ExportSettings(model=str(folders[kind]), out=revision)) == 0
        models["onnx_lm", kind] = models["cascade", kind] = load_onnx(revision, provider="cpu", threads=1)
    with Stack(folder / "stack") as stack:
        stack.start("verifier", "verifier", "--model", str(target), "--model-name", "tiny", "--drafting", "always")
        stack.wait()
        deployment = Deployment(stack.services["verifier"].address, models)
        deployment.plain = asyncio.run(deployment.answers(off=True))
        assert len({tuple(answer.ids) for answer in deployment.plain.values()}) == len(deployment.plain)
        yield deployment


@pytest.mark.parametrize("bridge", list(BRIDGES))
@pytest.mark.parametrize("strategy", ["causal_lm", "onnx_lm", "cascade"])
def test_models(deployment: Deployment, strategy: str, bridge: str) -> None:
    """All trees with all stopping rules."""
    kind = (MODELS if strategy == "causal_lm" else ONNX_MODELS)[bridge]
    loaded = deployment.models[strategy, kind]

    async def try_all() -> dict[tuple[str, str], Counter[str]]:
        counts: dict[tuple[str, str], Counter[str]] = {}
        for tree, rule in itertools.product(TREES, STOPPING_RULES):
            growth = Growth(TREES[tree](SHAPE), Ahead(SHAPE), make_rule(rule))
            workload = Workload(SHAPE.width, bridge, 4096, draft_ahead=True, guesses=strategy == "cascade")
            model = draft_model(strategy, loaded, growth, workload)
            model.lane.start()
            try:
                drafting = Drafting(Memory((), 0), [model], max_nodes=16, ahead=True)
                async with deployment.drafting(f"{strategy}-{tree}-{rule}", drafting, (strategy,)):
                    answers = await deployment.answers(drafters=[f"{strategy}-{tree}-{rule}"])
            finally:
                model.lane.stop()
            counts[tree, rule] = deployment.check(answers)
        return counts

    counts = asyncio.run(try_all())
    assert len(counts) == len(TREES) * len(STOPPING_RULES)
    silent = [combination for combination, count in counts.items() if not count["proposed"]]
    assert not silent, "each of them drafts"
    if kind != "foreign":  # a model that says what the target says
        proposed, accepted = (sum(count[what] for count in counts.values()) for what in ("proposed", "accepted"))
        print(f"{strategy} {bridge}: {accepted} of {proposed} accepted")
        # A quarter, when drafts come in time; how many do is the machine's affair.
        assert accepted > 10 * BY_CHANCE * proposed, "and says what the target says"


@pytest.mark.parametrize("bridge", ["string_exact", "ngram_cache"])
def test_a_model_with_other_ids_is_right_through_every_bridge(deployment: Deployment, bridge: str) -> None:
    async def drafted() -> Counter[str]:
        growth = Growth(TREES["opt_tree"](SHAPE), Ahead(SHAPE), make_rule("fixed"))
        loaded = deployment.models["causal_lm", "relabelled"]
        model = draft_model("causal_lm", loaded, growth, Workload(SHAPE.width, bridge, 4096, draft_ahead=True))
        model.lane.start()
        try:
            drafting = Drafting(Memory((), 0), [model], max_nodes=16, ahead=True)
            async with deployment.drafting(bridge, drafting, ("causal_lm",)):
                return deployment.check(await deployment.answers(drafters=[bridge]))
        finally:
            model.lane.stop()

    counts = asyncio.run(drafted())
    # Of a tree as wide as this one a third can be right at most, and a random target writes half characters, and words
    # in other tokens than a text is cut into.
    assert counts["accepted"] > 10 * BY_CHANCE * counts["proposed"] > 0


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_strategies_without_a_model(deployment: Deployment, strategy: str, tmp_path: Path) -> None:
    """Twice, so that those that remember have something."""
    datastore = None
    if strategy in ("retrieval", "hierarchy"):
        datastore = make_datastore(deployment, tmp_path)
    memory = Memory((strategy,), 100_000, open_resources((strategy,), datastore))
    drafting = Drafting(memory, [], max_nodes=16, ahead=True)

    async def drafted() -> Counter[str]:
        async with deployment.drafting(strategy, drafting, (strategy,)):
            first = deployment.check(await deployment.answers(drafters=[strategy]))
            return first + deployment.check(await deployment.answers(drafters=[strategy]))

    counts = asyncio.run(drafted())
    assert counts["accepted"], "the second time it knows the answer"


def make_datastore(deployment: Deployment, folder: Path) -> Path:
    """Of what the target says, made by the command."""
    from paceline.drafter.datastore.command import IndexSettings, index

    text = folder / "answers.txt"
    text.write_text("\n".join(prompt + answer.text for (prompt, _), answer in deployment.plain.items()))
    settings = IndexSettings(verifier=deployment.address, text=[text], out=folder / "datastore")
    assert index(settings) == 0
    return folder / "datastore"
