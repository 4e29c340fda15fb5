"""A drafter's process that follows a line: real models take over, one with another tokenizer too; no stream ends."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fake_trainer import LINE, FakeTrainer
from onnx import numpy_helper
from tiny_lms import CONFIGS, chain_rows, save_model, tokenizer_json

from paceline.drafter.models.export import ExportSettings, export
from paceline.drafter.models.onnx_lm import load_onnx
from paceline.v1 import trainer_pb2, types_pb2, verifier_pb2
from paceline.wire.revision_folder import open_revision, seal
from paceline.wire.signature import new_key, signer

DEADLINE_S = 60.0
TARGET = tokenizer_json()
INFO = types_pb2.FileInfo(
    path="tokenizer.json", size=len(TARGET.encode()), sha256=hashlib.sha256(TARGET.encode()).digest()
)
TOKENIZER_HASH = hashlib.sha256(b"tokenizer.json\0" + INFO.sha256).hexdigest()


def sealed(folder: Path) -> Path:
    manifest = trainer_pb2.RevisionManifest()
    manifest.CopyFrom(open_revision(folder).manifest)
    manifest.drafter = LINE
    seal(folder, manifest)
    return folder


def other_weights(graph: bytes) -> bytes:
    """The same graph with every matrix turned over, so that it says something else."""
    model = onnx.load_from_string(graph)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[::-1]), tensor.name))
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one tokenizer, and the second one again with another."""
    base = tmp_path_factory.mktemp("revisions")
    source = save_model(base / "source", CONFIGS["llama"])
    export(ExportSettings.model_validate({"model": str(source), "out": base / "a", "quantize": "none"}))
    shutil.copytree(base / "a", base / "b")
    (base / "b" / "model.onnx").write_bytes(other_weights((base / "a" / "model.onnx").read_bytes()))
    for name in "ab":
        sealed(base / name)
    shutil.copytree(base / "b", base / "c")
    other = json.loads(TARGET)
    letters = other["model"]["vocab"]
    other["model"]["vocab"] = {letter: len(letters) - 1 - index for letter, index in letters.items()}
    (base / "c" / "tokenizer.json").write_text(json.dumps(other))
    manifest = trainer_pb2.RevisionManifest()
    manifest.CopyFrom(open_revision(base / "b").manifest)
    seal(base / "c", manifest)
    return [base / name for name in "abc"]


def best_after(folder: Path, tokens: list[int]) -> int:
    model = load_onnx(folder).model
    return int(np.argmax(model.score([chain_rows(model.new_cache(), tokens)])[0][-1][:256]))


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.05)


@asynccontextmanager
async def drafter(*arguments: str | Path, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "paceline.drafter", "serve", *map(str, arguments), stderr=file
        )
    try:
        yield process
        assert process.returncode is None, "it goes on until the end"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
def tokenizer_verifier(make_verifier: Any) -> Any:
    class Verifier(make_verifier):
        async def GetTokenizer(self, request: Any, context: Any) -> AsyncIterator[verifier_pb2.GetTokenizerResponse]:
            manifest = verifier_pb2.TokenizerManifest(tokenizer_hash=TOKENIZER_HASH, files=[INFO])
            yield verifier_pb2.GetTokenizerResponse(manifest=manifest)
            yield verifier_pb2.GetTokenizerResponse(chunk=TARGET.encode())

    return Verifier(tokenizer_hash=TOKENIZER_HASH, vocab_size=300)


class Talk:
    """One session, told from the verifier's side."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.num_drafts = 0
        stream.open(1, [5, 6, 7])

    @property
    def text(self) -> list[int]:
        return list(self.stream.texts[1])

    async def draft(self) -> Any:
        """The draft for the text as it is; then the text goes on."""
        async with asyncio.timeout(DEADLINE_S):
            draft = await self.stream.draft()
            while not self.stream.is_current(draft):
                draft = await self.stream.draft()
        self.num_drafts += 1
        return draft

    async def until_by(self, *folders: Path) -> None:
        """Until drafts are by the last of these models; all before are by one of them."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                draft, text = await self.draft(), self.text
                best = [best_after(folder, text) for folder in folders]
                assert draft.tokens[0] in best
                self.stream.commit(1, [best[-1] if len(self.text) < 60 else 9])
                if draft.tokens[0] == best[-1] and best[-1] not in best[:-1]:
                    return
                if len(self.text) > 100:
                    self.stream.open(1, [5, 6, 7])


async def test_models_take_over_in_a_session_that_goes_on(
    tmp_path: Path, folders: list[Path], tokenizer_verifier: Any
) -> None:
    a, b, c = folders
    private, public = new_key()
    (tmp_path / "key").write_bytes(private)
    (tmp_path / "key.pub").write_bytes(public)
    sign = signer(tmp_path / "key")

    def publish(folder: Path) -> str:
        return trainer.publish(folder, sign(open_revision(folder).manifest))

    trainer, verifier, log = FakeTrainer(), tokenizer_verifier, tmp_path / "log"
    async with verifier.serving(), trainer.serving() as address:
        arguments = ["--verifiers", verifier.address, "--trainer", address, "--line", LINE, "--strategies", "onnx_lm"]
        arguments += ["--revision-cache", str(tmp_path / "cache"), "--public-key", str(tmp_path / "key.pub")]
        trainer.publish(b)  # unsigned
        async with drafter(*arguments, "--threads", "1", "--tree", "chain", "--stopping", "fixed", log=log):
            await until(lambda: "the revision is not signed" in log.read_text())
            first = publish(a)
            async with asyncio.timeout(DEADLINE_S):
                stream = await verifier.streams.get()
            assert stream.hello.revision == first
            talk = Talk(stream)
            await talk.until_by(a)
            publish(b)
            await talk.until_by(a, b)
            shutil.copytree(c, tmp_path / "damaged")
            (tmp_path / "damaged" / "model.onnx").write_bytes(b"no graph")
            damaged = publish(sealed(tmp_path / "damaged"))
            async with asyncio.timeout(DEADLINE_S):
                while f"revision={damaged}" not in log.read_text():
                    await talk.draft()
                    stream.commit(1, [3])
                    await asyncio.sleep(0.05)
            last = publish(c)
            async with asyncio.timeout(DEADLINE_S):
                while f"revision={last}" not in log.read_text():
                    await talk.draft()
                    stream.commit(1, [3])
            for _ in range(5):
                assert len((await talk.draft()).tokens)
                stream.commit(1, [4])
            assert verifier.num_attempts == 1, "one stream for all of that"
            assert trainer.withdrawals.empty()
