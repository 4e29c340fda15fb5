"""Loading in a child process: what it loads, how its errors arrive, and that it never outlives whom it loads for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import CONTEXT, save_target

from paceline.verifier.model.apart import CHILD, load_apart
from paceline.verifier.model.exactness import reference_logits
from paceline.verifier.model.extract import extract
from paceline.verifier.model.handover import Handover
from paceline.verifier.model.load import find_target, load_target
from paceline.verifier.model.target import Unsuited, Wanted
from paceline.wire.settings import StartupError

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_target(tmp_path_factory.mktemp("target"))


def children() -> set[int]:
    """Ids of our child processes that load a model."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and CHILD.encode() in (path / "cmdline").read_bytes():
                found.add(int(path.name))
    return found


async def new_child() -> int:
    async with asyncio.timeout(DEADLINE_S):
        while not (found := children()):
            await asyncio.sleep(0.005)
    return found.pop()


async def disturbed(wanted: Wanted, disturb: Callable[[int], None]) -> Handover:
    """Loads; `disturb` is called with the child's id when that has hardly begun."""
    loading = asyncio.create_task(load_apart(wanted, 1))
    disturb(await new_child())
    return await loading


def why_not(loading: Coroutine[Any, Any, Handover]) -> str:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(StartupError) as caught:
        asyncio.run(loading)
    message = str(caught.value)
    assert "\n" not in message
    assert not children()
    assert set(os.listdir("/proc/self/fd")) <= before
    return message


def test_what_a_child_loads_is_what_would_be_loaded_here(folder):
    wanted = Wanted(str(folder), "cpu", "bfloat16", 100)
    handed = asyncio.run(load_apart(wanted, torch.get_num_threads()))
    target, model = load_target(wanted, find_target(wanted))
    assert handed.target.tokenizer.content_hash == target.tokenizer.content_hash
    for name in ("name", "context_length", "eos_token_ids", "num_parameters", "architecture", "dtype", "device"):
        assert getattr(handed.target, name) == getattr(target, name)
    assert torch.equal(handed.reference, reference_logits(model))
    weights = extract(model)
    assert handed.weights.config == weights.config
    assert torch.equal(handed.weights.embedding, weights.embedding)
    for here, there in zip(handed.weights.layers, weights.layers, strict=True):
        assert torch.equal(here.qkv, there.qkv)
        assert torch.equal(here.down, there.down)


def test_why_a_model_can_not_be_loaded_arrives_as_it_was_said(folder, tmp_path):
    assert "no such folder" in why_not(load_apart(Wanted(str(tmp_path / "nowhere"), "cpu"), 1))
    assert f"at most {CONTEXT}" in why_not(load_apart(Wanted(str(folder), "cpu", "auto", CONTEXT + 1), 1))


def test_a_model_that_is_not_llama_like_is_known_by_its_settings(tmp_path):
    folder = save_target(tmp_path, "gemma2")
    (folder / "model.safetensors").write_bytes(b"nobody reads this")
    with pytest.raises(Unsuited, match="of type gemma2"):
        asyncio.run(load_apart(Wanted(str(folder), "cpu"), 1))


def test_a_child_that_is_killed_or_fails_is_explained_in_one_line(folder):
    wanted = Wanted(str(folder), "cpu")
    killed = why_not(disturbed(wanted, lambda child: os.kill(child, signal.SIGKILL)))
    assert "was killed, as Linux does when memory is short" in killed
    assert "ended by SIGTERM" in why_not(disturbed(wanted, lambda child: os.kill(child, signal.SIGTERM)))
    assert "failed with exit code 1" in why_not(load_apart(wanted, -1))  # no number of threads


def test_no_room_for_the_weights_is_explained_in_one_line(folder):
    def bound(child: int) -> None:
        resource.prlimit(child, resource.RLIMIT_FSIZE, (100_000, 100_000))

    message = why_not(disturbed(Wanted(str(folder), "cpu", "float32"), bound))
    assert "no memory to hand its weights over: File too large" in message


def test_the_child_ends_with_the_wish_for_it(folder):
    async def cancelled() -> None:
        loading = asyncio.create_task(load_apart(Wanted(str(folder), "cpu"), 1))
        os.kill(await new_child(), signal.SIGSTOP)  # it would not end by itself
        loading.cancel()
        await asyncio.wait({loading}, timeout=DEADLINE_S)
        assert loading.cancelled()

    asyncio.run(cancelled())
    assert not children()
