"""What the README promises a newcomer: the client in ten lines, and reflection."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tiny_target import make_tiny_target

from paceline.cli.stack import Stack

README = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "README.md"
SERVICES = {
    "router": {"paceline.v1.Router", "paceline.v1.Registry"},
    "verifier": {"paceline.v1.Verifier"},
    "trainer": {"paceline.v1.Trainer"},
}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("readme")
    model = make_tiny_target(folder / "model")
    with Stack(folder / "stack") as stack:
        stack.start("router", "router", "--state", "memory:")
        stack.wait("router")
        announce = ("--router", stack.services["router"].address)
        stack.start("verifier", "verifier", "--model", str(model), *announce)
        stack.start("trainer", "trainer", "--data", str(folder / "trainer"), *announce)
        stack.start("suffix", "drafter", "--name", "suffix", "--strategies", "suffix", *announce)
        stack.wait()
        stack.wait_connected(stack.services["router"].address, ["suffix"])
        yield stack


def test_the_client_of_the_readme_gets_a_streamed_answer(stack: Stack) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) == 1
    code = blocks[0]
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]) <= 10
    assert "127.0.0.1:7700" in code
    program = code.replace("127.0.0.1:7700", stack.services["router"].address)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 20


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_reflection_lists_the_services(stack: Stack, name: str) -> None:
    with grpc.insecure_channel(stack.services[name].address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(iter(stub.ServerReflectionInfo(iter([request]))))
        listed = {service.name for service in answer.list_services_response.service}
    assert listed >= SERVICES[name] | {"grpc.health.v1.Health"}
