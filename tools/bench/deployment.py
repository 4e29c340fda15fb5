"""Router, verifier and drafters as processes on this machine, and how to ask them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
from mixes import DrafterProcess
from rounds import Asker, BenchError, Messages, Reply

from paceline.cli.measure import Stub, ask, request_for
from paceline.cli.stack import Service, Stack, StackError
from paceline.v1 import router_pb2, router_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from paceline.wire.status import from_rpc_error

TIMEOUT_S = 30.0
SHOWN_LINES = 5


@dataclass(frozen=True, slots=True)
class Deployment:
    """What runs: where the router listens, and what the processes say of themselves."""

    router: str
    dtype: str
    vocab_size: int
    context_length: int
    eos_token_ids: tuple[int, ...]
    versions: dict[str, str]
    tokenizer: Path


def deploy(
    stack: Stack,
    *,
    model: str,
    dtype: str,
    verifier_arguments: Sequence[str],
    drafters: Sequence[DrafterProcess],
) -> Deployment:
    """Starts everything and waits until each drafter is connected. No trainer: answers come without it.

    Raises:
        BenchError: with the last words of what did not start.
    """
    try:
        # Fixed: each request gets all drafters, instead of those that the router has learnt to prefer by then.
        stack.start("router", "router", "--state", "memory:", "--policy", "fixed")
        stack.wait("router")
        router = stack.services["router"].address
        announce = ("--router", router)
        stack.start("verifier", "verifier", "--model", model, "--dtype", dtype, *announce, *verifier_arguments)
        for drafter in drafters:
            stack.start(drafter.name, "drafter", *drafter.arguments, *announce)
        stack.wait(timeout_s=600.0)
        stack.wait_connected(router, [drafter.name for drafter in drafters])
    except StackError as error:
        raise BenchError(last_words(stack.services.values()) or str(error)) from error
    return _describe(stack, router)


def asker(
    stub: Stub,
    *,
    speculation: bool,
    remember: bool,
    temperature: float = 0.0,
    seed: int = 0,
    drafters: Sequence[str] = (),
) -> Asker:
    """Asks the router, or the verifier. A memory's name becomes the tenant, whose text drafters may remember."""

    async def ask_stub(messages: Messages, max_new_tokens: int, memory: str) -> Reply:
        request = request_for(
            list(messages),
            max_tokens=max_new_tokens,
            temperature=temperature,
            seed=seed,
            speculation=speculation,
            drafters=tuple(drafters),
        )
        request.tenant = memory
        request.no_store = not remember
        try:
            answer = await ask(stub, request)
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error)
            raise BenchError(refusal.message if refusal else f"{error.code().name}: {error.details()}") from error
        return Reply(tuple(answer.ids), answer.text, answer.seconds, answer.prompt_tokens, answer.steps)

    return ask_stub


def _describe(stack: Stack, router: str) -> Deployment:
    with grpc.insecure_channel(router) as channel:
        status = router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest(), timeout=TIMEOUT_S)
    peers = [status.peer, *(member.peer for member in status.members)]
    with grpc.insecure_channel(stack.services["verifier"].address) as channel:
        stub = verifier_pb2_grpc.VerifierStub(channel)
        model = stub.GetModel(verifier_pb2.GetModelRequest(), timeout=TIMEOUT_S)
        tokenizer = fetch_tokenizer(stub, stack.folder / "tokenizer")
    return Deployment(
        router=router,
        dtype=model.dtype,
        vocab_size=model.vocab_size,
        context_length=model.context_length,
        eos_token_ids=tuple(sorted(model.eos_token_ids)),
        versions={peer.package: peer.version for peer in sorted(peers, key=lambda peer: peer.package)},
        tokenizer=tokenizer,
    )


def fetch_tokenizer(stub: verifier_pb2_grpc.VerifierStub, folder: Path) -> Path:
    """The verifier's tokenizer as files."""
    parts = stub.GetTokenizer(verifier_pb2.GetTokenizerRequest(), timeout=TIMEOUT_S)
    files = list(next(parts).manifest.files)
    content = b"".join(part.chunk for part in parts)
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content[: file.size])
        content = content[file.size :]
    return folder


def last_words(services: Iterable[Service]) -> str:
    """Of those that ended by themselves. Several lines, for the very last may only point to --help."""
    return "\n".join(
        f"{service.name} ended with exit code {code}:\n" + "\n".join(_lines(service.log)[-SHOWN_LINES:])
        for service in services
        if (code := service.process.poll()) is not None
    )


def _lines(log: Path) -> list[str]:
    return [f"  {line}" for line in log.read_text(errors="replace").splitlines() if line.strip()]
