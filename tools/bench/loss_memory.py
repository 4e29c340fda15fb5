"""Memory and time of one loss and its gradients, in a process of its own: only its high water mark tells."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

WAYS = ("plain", "chunked")
SEED = 20250
TOP_K = 8


@dataclass(frozen=True, slots=True)
class Size:
    """positions x vocab_size logits from hidden states of `width`; `chunk` positions at a time."""

    positions: int
    vocab_size: int
    width: int
    chunk: int


@dataclass(frozen=True, slots=True)
class Cost:
    """`peak_bytes` above what inputs, weights and libraries take; `seconds` of loss and gradients together."""

    peak_bytes: int
    seconds: float
    loss: float


def measure_apart(objective: str, way: str, size: Size, threads: int) -> Cost:
    """`measure`, in a process that has done nothing else."""
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, objective, way, size, threads).result()


def measure(objective: str, way: str, size: Size, threads: int) -> Cost:
    """The mean loss of random hidden states, and its gradients to them and to the head; float32."""
    import torch

    torch.set_num_threads(threads)
    _prepare(objective, way, Size(8, 64, size.width, 4))()  # libraries load what they need
    run = _prepare(objective, way, size)
    before, start = _peak_bytes(), time.monotonic()
    loss = run()
    return Cost(_peak_bytes() - before, time.monotonic() - start, loss)


def _prepare(objective: str, way: str, size: Size) -> Callable[[], float]:
    import torch

    from paceline.trainer.learning.chunked import chunked_loss, plain_loss
    from paceline.trainer.learning.objectives import OBJECTIVES

    draw = torch.Generator().manual_seed(SEED)
    hidden = torch.randn(size.positions, size.width, generator=draw).requires_grad_()
    head = (torch.randn(size.vocab_size, size.width, generator=draw) * size.width**-0.5).requires_grad_()
    targets = _targets(objective, size)

    def run() -> float:
        if way == "chunked":
            loss = chunked_loss(hidden, head, targets, OBJECTIVES[objective], size.chunk).mean()
        else:
            loss = plain_loss(hidden, head, targets, OBJECTIVES[objective]).mean()
        loss.backward()
        return loss.item()

    return run


def _targets(objective: str, size: Size):  # type: ignore[no-untyped-def]  # torch is imported in here only
    import torch

    from paceline.trainer.learning.objectives.hybrid import HybridTargets, run_weights
    from paceline.trainer.learning.targets import Targets

    draw = torch.Generator().manual_seed(SEED + 1)
    first = torch.randint(0, size.vocab_size, (size.positions, 1), generator=draw)
    ids = (first + torch.arange(TOP_K)) % size.vocab_size
    log_probs = torch.randn(size.positions, TOP_K + 1, generator=draw).log_softmax(dim=-1)[:, :TOP_K]
    plain = {
        "tokens": ids[:, 0].clone(),
        "top_ids": ids,
        "top_log_probs": log_probs,
        "temperature": 1.0,
        "vocab_size": size.vocab_size,
    }
    if objective != "hybrid":
        return Targets(**plain)
    lengths = torch.ones(size.positions - 1, dtype=torch.int64)
    lengths[0] = 2
    return HybridTargets(**plain, begins=torch.ones(size.positions, dtype=torch.bool), run_weights=run_weights(lengths))


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
