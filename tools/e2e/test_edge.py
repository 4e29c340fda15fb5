"""A drafter as it runs on an edge device: its wheel with `[edge]`, an ONNX folder, and no model library."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from clean_environment import Environment, make_environment
from tiny_target import make_tiny_target
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from paceline.cli.measure import Answer, ask
from paceline.cli.stack import Stack
from paceline.drafter.models.export import ExportSettings, export
from paceline.v1 import generation_pb2, router_pb2_grpc, types_pb2
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
READY_S = 120.0
MAX_MB = 250.0  # of a drafter with a model of 10 million parameters
MAX_CPU_S = 3.0  # until it is ready, on one core: what a machine that does nothing else takes


@dataclass(frozen=True)
class Edge:
    """The environment, the exported model, and the deployment that it drafts for."""

    environment: Environment
    revision: Path
    stack: Stack

    @property
    def router(self) -> str:
        return self.stack.services["router"].address


def make_model(folder: Path, target: Path) -> Path:
    """Ten million random parameters, with the target's tokenizer."""
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    assert 9.5e6 < sum(parameter.numel() for parameter in model.parameters()) < 11e6
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(target).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    wheels = [next((ROOT / package / "wheel").glob("*.whl")) for package in ("protos", "packages/drafter")]
    environment = make_environment(folder / "clean", wheels, extras=["edge"])
    target = make_tiny_target(folder / "target")
    revision = folder / "revision"
    assert export(ExportSettings(model=str(make_model(folder / "model", target)), out=revision)) == 0
    with Stack(folder / "stack") as stack:
        stack.start("router", "router", "--state", "memory:", "--policy", "fixed")
        stack.wait("router")
        router = stack.services["router"].address
        verifier = ("--model", str(target), "--model-name", "tiny", "--drafting", "always")
        stack.start("verifier", "verifier", *verifier, "--router", router)
        stack.wait()
        yield Edge(environment, revision, stack)


def test_there_is_no_model_library(edge: Edge) -> None:
    for module in ("torch", "transformers", "onnx"):
        command = [str(edge.environment.python), "-c", f"import {module}"]
        result = subprocess.run(command, env=edge.environment.variables, capture_output=True, check=False)
        assert b"ModuleNotFoundError" in result.stderr


def test_it_drafts_within_its_bounds(edge: Edge, tmp_path: Path) -> None:
    ready_file, log = tmp_path / "ready", tmp_path / "log"
    command = [str(edge.environment.folder / "bin" / "paceline-drafter"), "serve"]
    command += ["--strategy", "onnx_lm", "--revision", str(edge.revision), "--router", edge.router]
    command += ["--drafter-id", "mine", "--own", "--threads", "1", "--ready-file", str(ready_file)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=edge.environment.variables, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + READY_S
        while not ready_file.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        cpu_s = cpu_seconds(process.pid)
        plain = answer_of(edge, off=True)
        drafted = answer_with(edge, "mine")
        resident_mb = resident_megabytes(process.pid)
        others = answer_of(edge)
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()
    print(json.dumps({"ready_cpu_s": cpu_s, "resident_mb": resident_mb, "drafted": drafted.drafters}))
    assert drafted.ids == plain.ids
    assert drafted.drafters["onnx_lm"][0] > 0, "it drafts"
    assert not others.drafters, "it is somebody's own"
    assert cpu_s <= MAX_CPU_S
    assert resident_mb <= MAX_MB


def answer_of(edge: Edge, **speculation: object) -> Answer:
    request = generation_pb2.GenerateRequest(
        text="the quick brown fox",
        sampling=types_pb2.Sampling(temperature=0.0),
        limits=types_pb2.Limits(max_tokens=40, ignore_eos=True),
        speculation=types_pb2.Speculation(**speculation),  # type: ignore[arg-type]
    )

    async def asked() -> Answer:
        async with connect(edge.router, ClientSettings()) as channel:
            return await ask(router_pb2_grpc.RouterStub(channel), request)

    return asyncio.run(asked())


def answer_with(edge: Edge, drafter: str) -> Answer:
    """As soon as the drafter is connected; until then naming it is refused."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return answer_of(edge, drafters=[drafter])
        except Exception as error:
            if ("UNKNOWN_DRAFTER" not in str(error) and drafter not in str(error)) or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_megabytes(pid: int) -> float:
    """The most it ever had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
