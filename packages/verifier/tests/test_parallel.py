"""A model shared out among two processes over gloo: the text of one process, and none of them outlives the other.

Between one process and two, sums over heads and columns are taken in another order, so logits may differ in their last
bits: what is compared there is the greedy text of a model whose tokens are not nearly tied. Between speculation on and
off in the same processes nothing may differ, which the exactness probe says of the logits.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import grpc
import numpy as np
import pytest
from tiny_decoders import make_decoder
from tiny_models import GREEDY, make_tokenizer

from paceline.v1 import drafting_pb2, generation_pb2, types_pb2, verifier_pb2_grpc
from paceline.verifier.model.batch import SessionPlan, StepPlan
from paceline.verifier.model.blocks import BLOCK_TOKENS, KVSlot
from paceline.verifier.model.engines import open_target
from paceline.verifier.model.parallel import decode_kept, decode_sessions, encode_kept, encode_sessions
from paceline.verifier.model.runner import Kept, Runner
from paceline.verifier.model.target import Wanted
from paceline.wire.digest import digest_of
from paceline.wire.tree import Anchor, DraftTree, encode_tree
from paceline.wire.version import make_peer

DEADLINE_S = 120.0
GONE_S = 30.0  # in which a process notices that the other one is gone
NUM_TOKENS = 40
MAX_TRIES = 10
LAYERS = (0, 2, 1)
PROMPT = tuple(make_tokenizer()("to be or not to be")["input_ids"])
HOT = types_pb2.Sampling(temperature=0.8, seed=11)
OFF = types_pb2.Speculation(off=True)


def save(folder: Path, kind: str, **changes: int) -> Path:
    """Columns are as many that each half fills whole vectors, else the activation would round by position."""
    make_decoder(kind, intermediate_size=128, **changes).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """Each half has two heads on one key-value head; all linear layers have biases."""
    return save(tmp_path_factory.mktemp("llama"), "llama biases", num_key_value_heads=2)


@pytest.fixture(scope="module")
def qwen2(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("qwen2"), "qwen2")


def text_of_one_process(folder: Path) -> list[int]:
    """The greedy answer to PROMPT, as one process computes it."""
    runner: Runner = asyncio.run(open_target(Wanted(str(folder), "cpu", "float32"), "transformers")).runner
    runner.allocate(8)
    slot = runner.new_slot(len(PROMPT) + NUM_TOKENS)
    tokens: list[int] = []
    while len(tokens) < NUM_TOKENS:
        chain = tuple(tokens[-1:]) or PROMPT
        step = runner.step(StepPlan((SessionPlan(slot, chain, True, (), (), GREEDY),)))
        tokens += step.sessions[0].tokens
    return tokens


def states_of_one_process(folder: Path, tokens: list[int]) -> np.ndarray:
    """[tokens, layers, hidden] float, as one process computes them."""
    runner: Runner = asyncio.run(open_target(Wanted(str(folder), "cpu", "float32"), "transformers")).runner
    runner.allocate(8)
    slot = runner.new_slot(len(tokens))
    plan = SessionPlan(slot, tuple(tokens), True, (), (), GREEDY, want_features=True)
    (session,) = runner.step(StepPlan((plan,), LAYERS)).sessions
    return widened(session.features.values)


def check_features(told: dict[int, np.ndarray], own: np.ndarray) -> None:
    """That rank 0 has all of the state: with half of it, it would be far away."""
    assert len(told) > NUM_TOKENS // 2
    for position, row in told.items():
        apart = widened(row) - own[position]
        assert np.abs(apart[0]).max() == 0.0  # of the embedding nothing is computed
        assert np.sqrt(np.square(apart).mean() / np.square(own[position]).mean()) < 0.005


def widened(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Verifier:
    """A verifier of two processes that serves.

    Args:
        torchrun: torchrun starts the processes, else they are started here, so that nobody ends one but the others.
    """

    def __init__(self, folder: Path, work: Path, torchrun: bool = False) -> None:
        self._ready = work / "ready"
        fixed = ("--listen", "127.0.0.1:0", "--ready-file", str(self._ready), "--device", "cpu", "--dtype", "float32")
        serve = ["-m", "paceline.verifier", "serve", *fixed, "--model", str(folder), "--drafting", "always"]
        if torchrun:
            launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
            places: list[dict[str, str]] = [{}]
        else:
            launch = [sys.executable]
            master = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2"}
            places = [{**master, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
        self.logs = [work / f"log{index}" for index in range(len(places))]
        self.processes: list[subprocess.Popen[bytes]] = []
        for place, log in zip(places, self.logs, strict=True):
            environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **place}
            with log.open("wb") as file:
                self.processes.append(subprocess.Popen([*launch, *serve], env=environment, stderr=file, stdout=file))

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.terminate()  # torchrun would leave its processes behind if it were killed
        for process in self.processes:
            try:
                process.wait(GONE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def stub(self) -> verifier_pb2_grpc.VerifierStub:
        """Once it serves."""
        deadline = time.monotonic() + DEADLINE_S
        while not self._ready.exists():
            assert all(process.poll() is None for process in self.processes), self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)
        told = json.loads(self._ready.read_text())
        self.pid = told["pid"]
        return verifier_pb2_grpc.VerifierStub(grpc.insecure_channel(told["address"]))

    def said(self, *which: int) -> str:
        return "\n".join(self.logs[index].read_text() for index in which or range(len(self.logs)))


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Answer:
    """Asks for a text, and has read it whole."""

    def __init__(self, stub: verifier_pb2_grpc.VerifierStub, **fields: object) -> None:
        self.ids: list[int] = []
        self.text = ""
        for event in ask(stub, NUM_TOKENS, **fields):
            if event.HasField("tokens"):
                self.ids += event.tokens.ids
                self.text += event.tokens.text
            elif event.HasField("finished"):
                self.total = event.finished.total


def ask(
    stub: verifier_pb2_grpc.VerifierStub, max_tokens: int, **fields: object
) -> Iterator[generation_pb2.GenerateEvent]:
    limits = types_pb2.Limits(max_tokens=max_tokens, ignore_eos=True)
    request = generation_pb2.GenerateRequest(token_ids=types_pb2.TokenIds(ids=PROMPT), limits=limits, **fields)
    return iter(stub.Generate(request, timeout=DEADLINE_S))


class Drafter:
    """Proposes the tokens that it knows will come, a likelier looking wrong one before each of them.

    So what is accepted is scattered over the cache, and has to be moved together in both processes.
    """

    def __init__(self, stub: verifier_pb2_grpc.VerifierStub, answer: list[int]) -> None:
        self._whole = [*PROMPT, *answer]
        self._outgoing: SimpleQueue[drafting_pb2.DrafterMessage | None] = SimpleQueue()
        self.features: dict[int, np.ndarray] = {}  # [layers, hidden] bits by position
        hello = drafting_pb2.Hello(
            peer=make_peer("test", "0"), drafter_id="d", name="test", strategies=["s"], feature_layers=LAYERS
        )
        self._outgoing.put(drafting_pb2.DrafterMessage(hello=hello))
        self._stream = stub.Draft(iter(self._outgoing.get, None))
        welcome = next(self._stream).welcome
        assert list(welcome.feature_layers) == list(LAYERS)
        self._shape = (-1, len(LAYERS), welcome.hidden_size)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for message in self._stream:
            kind = message.WhichOneof("message")
            if kind in ("opened", "commit"):
                body = getattr(message, kind)
                length = len(body.tokens) if kind == "opened" else body.length
                assert digest_of(self._whole[:length]) == body.digest
                if kind == "commit":
                    values = np.frombuffer(body.features.values, dtype="<u2").reshape(self._shape)
                    self.features.update(enumerate(values, start=body.features.first))
                self._propose(body.session_id, length)

    def _propose(self, session_id: int, length: int) -> None:
        tokens: list[int] = []
        parents: list[int] = []
        for token in self._whole[length : length + 8]:
            parent = len(tokens) - 1
            tokens += [token ^ 1, token]
            parents += [parent, parent]
        claims = tuple(-0.01 * (1 + index % 2) for index in range(len(tokens)))
        tree = DraftTree(tuple(tokens), tuple(parents), claims, (0,) * len(tokens))
        anchor = Anchor(session_id, length, digest_of(self._whole[:length]))
        self._outgoing.put(drafting_pb2.DrafterMessage(draft=encode_tree(anchor, tree, final=True)))

    def leave(self) -> None:
        self._outgoing.put(drafting_pb2.DrafterMessage(goodbye=drafting_pb2.Goodbye()))
        self._reader.join(DEADLINE_S)
        assert not self._reader.is_alive()


def test_torchrun_starts_a_verifier_with_the_text_of_one_process_whatever_drafters_do(llama, tmp_path):
    expected = text_of_one_process(llama)
    with Verifier(llama, tmp_path, torchrun=True) as verifier:
        stub = verifier.stub()
        assert "exactness probe: logits don't depend on the step's shape" in verifier.said(), verifier.said()
        for sampling in (types_pb2.Sampling(), HOT):
            plain = Answer(stub, sampling=sampling, speculation=OFF)
            assert plain.text == make_tokenizer().decode(plain.ids, skip_special_tokens=True)
            if sampling != HOT:
                assert plain.ids == expected
            drafter = Drafter(stub, plain.ids)
            for _ in range(MAX_TRIES):  # on a busy machine, candidates may seem too dear or come too late for a while
                drafted = Answer(stub, sampling=sampling)
                assert (drafted.ids, drafted.text) == (plain.ids, plain.text)
                if accepted := sum(credit.accepted for credit in drafted.total.drafters):
                    break
            assert accepted > 0, verifier.said()
            drafter.leave()
            check_features(drafter.features, states_of_one_process(llama, [*PROMPT, *plain.ids]))
        os.kill(verifier.pid, signal.SIGTERM)
        assert verifier.processes[0].wait(DEADLINE_S) == 0, verifier.said()
        assert "Traceback" not in verifier.said()


def test_when_rank_0_is_killed_in_the_middle_of_a_text_the_other_ends(qwen2, tmp_path):
    with Verifier(qwen2, tmp_path) as verifier:
        stub = verifier.stub()
        assert Answer(stub, speculation=OFF).ids == text_of_one_process(qwen2)
        events = ask(stub, 400)
        for _ in range(3):
            next(events)
        verifier.processes[0].kill()
        assert verifier.processes[1].wait(GONE_S) == 1
        assert "can't go on" in verifier.said(1) or "is gone" in verifier.said(1)
        with pytest.raises(grpc.RpcError):
            list(events)


def test_when_the_other_is_killed_rank_0_ends_even_if_it_has_nothing_to_do(llama, tmp_path):
    with Verifier(llama, tmp_path) as verifier:
        verifier.stub()
        verifier.processes[1].kill()
        assert verifier.processes[0].wait(GONE_S) == 1
        assert "a process that holds a part of the model is gone" in verifier.said(0)
        assert "Traceback" not in verifier.said(0)


def test_orders_say_all_that_a_forward_pass_and_its_outcome_need():
    long = SessionPlan(KVSlot("t", [7, 3, 9, 4], 2 * BLOCK_TOKENS - 1), (5,), True, (8, 9), (-1, 0), GREEDY, top_k=3)
    short = SessionPlan(KVSlot("u", [2]), (6, 7, 8), False, (), (), GREEDY)
    told = decode_sessions(encode_sessions([long, short]))
    assert [(each.chain, each.completes, each.tree_tokens, each.tree_parents) for each in told] == [
        ((5,), True, (8, 9), (-1, 0)),
        ((6, 7, 8), False, (), ()),
    ]
    assert [(each.slot.blocks, each.slot.length) for each in told] == [([7, 3, 9], 127), ([2], 0)]
    kept = [Kept(long.slot, 1, (1,)), Kept(short.slot, 3, (0, 2, 5))]
    again = decode_kept(encode_kept(kept))
    assert [(part.num_chain, part.accepted) for part in again] == [(1, (1,)), (3, (0, 2, 5))]
    assert [(part.slot.blocks, part.slot.length) for part in again] == [([7, 3, 9, 4], 127), ([2], 0)]
