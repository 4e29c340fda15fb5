"""The teacher-forced pass: answers go through the target once, and what it thought at each position is kept.

When to use it: whenever a drafter is to be taught more than the tokens alone. One pass over a text costs a few steps of
decoding it, so it comes after answering instead of slowing it down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog
import torch

from paceline.trainer.data.batching import batches, chunks
from paceline.trainer.data.progress import WorkBar
from paceline.trainer.data.rows import ANSWERS, READINGS, Answer, Origin, Reading
from paceline.trainer.data.shards import Shards, ShardWriter
from paceline.trainer.data.target import Target
from paceline.wire.errors import out_of_range
from paceline.wire.settings import StartupError

log = structlog.get_logger()

SHARD_BYTES = 256 << 20  # of hidden states; more rows go into the next shard
HEAD_ROWS = 256  # whose logits are there at once: 50 MB of float32 for a vocabulary of 49,152
MAX_TOP_K = 256
MAX_LAYERS = 8


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to keep of each answer.

    Attributes:
        top_k: likeliest tokens at each answer position.
        layers: whose hidden states to keep, see `Target.features`; none keeps none.
        window: positions of the prompt, counted from its end, whose hidden states are kept besides the answer's.
        batch_tokens: most tokens of a pass, padding counted; a longer text has a pass to itself.
        rows_per_shard: most answers in a shard.
    """

    top_k: int = 16
    layers: tuple[int, ...] = ()
    window: int = 256
    batch_tokens: int = 512
    rows_per_shard: int = 64

    def check(self, target: Target) -> None:
        """Raises OUT_OF_RANGE."""
        if not 1 <= self.top_k <= min(MAX_TOP_K, target.vocab_size):
            raise out_of_range("top_k", self.top_k, f"1 to {min(MAX_TOP_K, target.vocab_size)}")
        if len(self.layers) > MAX_LAYERS or any(not 0 <= layer <= target.num_layers for layer in self.layers):
            raise out_of_range("layers", self.layers, f"at most {MAX_LAYERS} from 0 to {target.num_layers}")
        for name in ("batch_tokens", "rows_per_shard"):
            if getattr(self, name) < 1:
                raise out_of_range(name, getattr(self, name), "at least 1")
        if self.window < 0:
            raise out_of_range("window", self.window, "at least 0")


def read_all(target: Target, answers: Path, out: Path, wanted: Wanted) -> Shards[Reading]:
    """Reads every answer in a folder's shards that hasn't been read, shard by shard; again after a crash.

    Memory: one shard of readings, and the passes' own.

    Raises:
        StartupError: the folders don't fit the target or what is wanted.
        PacelineError: OUT_OF_RANGE, or MALFORMED for a damaged shard.
    """
    wanted.check(target)
    source = Shards(answers, ANSWERS)
    _check_same_target(answers, source.origin, target)
    with ShardWriter(out, READINGS, reading_origin(source.origin, target, wanted)) as writer:
        todo = (answer for answer in source if answer.id not in writer.done)
        with WorkBar("reading", len(source), len(writer.done)) as bar:
            for some in chunks(todo, wanted.rows_per_shard, partial(_state_bytes, target, wanted), SHARD_BYTES):
                path = writer.write(read(target, some, wanted, bar.advance))
                log.info("read", shard=path.name, answers=len(some), tokens_per_s=round(bar.tokens_per_s))
    return Shards(out, READINGS)


def reading_origin(answers: Origin, target: Target, wanted: Wanted) -> dict[str, Any]:
    """What all readings of a folder share: what the answers do, and how they were read."""
    kept = {name: value for name, value in asdict(wanted).items() if name in ("top_k", "layers", "window")}
    return {**answers, **kept, "layers": list(wanted.layers), "hidden_size": target.hidden_size, "dtype": target.dtype}


def read(
    target: Target, answers: Sequence[Answer], wanted: Wanted, advance: Callable[[int, int], None] = lambda *_: None
) -> list[Reading]:
    """What the target thinks of these answers, in their order. The same answers together give the same bits again.

    Args:
        advance: is told after each pass how many answers and tokens it read.
    """
    found: dict[int, Reading] = {}
    for indices in batches([len(answer) for answer in answers], wanted.batch_tokens):
        some = [answers[index] for index in indices]
        found.update(zip(indices, _read_batch(target, some, wanted), strict=True))
        advance(len(some), sum(map(len, some)))
    return [found[index] for index in range(len(answers))]


@torch.inference_mode()
def _read_batch(target: Target, answers: Sequence[Answer], wanted: Wanted) -> list[Reading]:
    ids = torch.zeros((len(answers), max(map(len, answers))), dtype=torch.int64)
    for row, answer in enumerate(answers):
        ids[row, : len(answer)] = torch.from_numpy(np.concatenate([answer.prompt_ids, answer.answer_ids]))
    with target.features(wanted.layers) as states:
        final = target.final(ids)
    readings = []
    for row, answer in enumerate(answers):
        prompt, end = len(answer.prompt_ids), len(answer)
        first = max(0, prompt - wanted.window) if wanted.layers else end
        top_ids, top_log_probs = top(target, final[row, prompt - 1 : end - 1], wanted.top_k)
        features = [layer[row, first:end] for layer in states]
        readings.append(Reading(answer, top_ids, top_log_probs, first, bits(features)))
    return readings


def top(target: Target, final: torch.Tensor, k: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float16]]:
    """The k likeliest tokens and their log-probabilities, [n, k] each, for [n, hidden_size] of `Target.final`."""
    ids, log_probs = [], []
    for some in final.split(HEAD_ROWS):
        logits = target.logits(some)
        best = logits.topk(k)
        ids.append(best.indices.int())
        log_probs.append((best.values - logits.logsumexp(-1, keepdim=True)).half())
    return torch.cat(ids).numpy(), torch.cat(log_probs).numpy()


def bits(layers: Sequence[torch.Tensor]) -> npt.NDArray[np.uint16]:
    """Layers of [n, hidden] side by side as bfloat16 bits: [n, layers, hidden]; no layers: [0, 0, 0]."""
    if not layers:
        return np.zeros((0, 0, 0), np.uint16)
    return torch.stack(list(layers), 1).bfloat16().contiguous().view(torch.uint16).numpy()


def _state_bytes(target: Target, wanted: Wanted, answer: Answer) -> int:
    positions = min(len(answer.prompt_ids), wanted.window) + len(answer.answer_ids)
    return 2 * positions * len(wanted.layers) * target.hidden_size


def _check_same_target(folder: Path, origin: Origin, target: Target) -> None:
    for name, own in (("tokenizer_hash", target.tokenizer_hash), ("vocab_size", target.vocab_size)):
        if origin.get(name) != own:
            raise StartupError(
                f"{folder}: answers have {name} {origin.get(name)!s:.20}, {target.name} has {own!s:.20}; "
                "read them with the target that gave them"
            )
