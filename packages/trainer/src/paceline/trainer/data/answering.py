"""The target answers prompts: in this process, in batches. `asking` has a verifier do it.

When to use which: a verifier is several times faster per token, and its answers are its own to the bit. Without one
nothing needs to be started, and any model that transformers loads will do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from paceline.trainer.data.batching import batches, chunks
from paceline.trainer.data.progress import WorkBar
from paceline.trainer.data.prompts import Prompt, mixed
from paceline.trainer.data.rows import ANSWERS, Answer, Tokens
from paceline.trainer.data.shards import Shards, ShardWriter
from paceline.trainer.data.target import Target
from paceline.wire import noise
from paceline.wire.errors import out_of_range

log = structlog.get_logger()

MAX_TEMPERATURE = 100.0


@dataclass(frozen=True, slots=True)
class Asking:
    """How prompts are answered.

    Attributes:
        max_tokens: of an answer.
        max_prompt_tokens: longer prompts are left out, counted and logged.
        temperature: 0 is greedy.
        seed: of all noise; each prompt draws with a seed made of this and its id.
        rows_per_shard: answers in a shard.
        batch_tokens: most tokens whose keys and values are there at once in this process.
    """

    max_tokens: int = 256
    max_prompt_tokens: int = 1024
    temperature: float = 0.0
    seed: int = 0
    rows_per_shard: int = 256
    batch_tokens: int = 8192

    def check(self, target: Target) -> None:
        """Raises OUT_OF_RANGE."""
        for name in ("max_tokens", "max_prompt_tokens", "rows_per_shard", "batch_tokens"):
            if getattr(self, name) < 1:
                raise out_of_range(name, getattr(self, name), "at least 1")
        length = self.max_tokens + self.max_prompt_tokens
        if length > target.context_length:
            raise out_of_range("max_prompt_tokens + max_tokens", length, f"at most {target.context_length}")
        if not 0.0 <= self.temperature <= MAX_TEMPERATURE:
            raise out_of_range("temperature", self.temperature, f"in [0, {MAX_TEMPERATURE:g}]")
        if not 0 <= self.seed < 1 << 64:
            raise out_of_range("seed", self.seed, "in [0, 2**64)")


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A prompt as the target sees it: prompt_ids [P], and the seed of its noise."""

    id: str
    source: str
    prompt_ids: Tokens
    seed: int


def answer_all(target: Target, prompts: Sequence[Prompt], out: Path, asking: Asking) -> Shards[Answer]:
    """Answers every prompt that hasn't been answered into `out`, shard by shard; again after a crash.

    Raises:
        StartupError: the folder is in use, or holds answers of another target or other settings.
        PacelineError: OUT_OF_RANGE; NO_CHAT_TEMPLATE or MALFORMED if the chat template doesn't take the prompts.
    """
    asking.check(target)
    origin = answer_origin(target, target.model_name, asking)
    with ShardWriter(out, ANSWERS, origin) as writer, WorkBar("answering", len(prompts)) as bar:
        for some in chunks(questions(target, prompts, asking, writer.done, bar), asking.rows_per_shard):
            path = writer.write(answer(target, some, asking, bar.advance))
            log.info("answered", shard=path.name, answers=len(some), tokens_per_s=round(bar.tokens_per_s))
    return Shards(out, ANSWERS)


def answer_origin(target: Target, model: str, asking: Asking) -> dict[str, Any]:
    """What all answers of a folder share."""
    settings = asdict(asking)
    kept = {name: settings[name] for name in ("max_tokens", "max_prompt_tokens", "temperature", "seed")}
    return {"model": model, "tokenizer_hash": target.tokenizer_hash, "vocab_size": target.vocab_size, **kept}


def questions(
    target: Target, prompts: Sequence[Prompt], asking: Asking, done: set[str], bar: WorkBar
) -> Iterator[Question]:
    """What is left to ask, in mixed order."""
    num_too_long = 0
    for prompt in mixed(prompts):
        if prompt.id in done:
            bar.advance(1, 0)
            continue
        ids = target.chat_ids([asdict(message) for message in prompt.messages])
        if len(ids) > asking.max_prompt_tokens:
            bar.advance(1, 0)
            num_too_long += 1
            continue
        yield Question(prompt.id, prompt.source, np.array(ids, np.int32), seed_of(prompt.id, asking.seed))
    if num_too_long:
        log.info("left out long prompts", prompts=num_too_long, max_prompt_tokens=asking.max_prompt_tokens)


def seed_of(prompt_id: str, seed: int) -> int:
    """A prompt's own seed: whatever else is asked, and in whichever order, its noise is the same."""
    return int.from_bytes(hashlib.sha256(f"{seed}\0{prompt_id}".encode()).digest()[:8], "big")


def answer(
    target: Target,
    asked: Sequence[Question],
    asking: Asking,
    advance: Callable[[int, int], None] = lambda *_: None,
) -> list[Answer]:
    """The target's answers in the order of the questions. The same questions together give the same answers again.

    Args:
        advance: is told after each batch how many answers and tokens it made.
    """
    found: dict[int, Answer] = {}
    lengths = [len(question.prompt_ids) + asking.max_tokens for question in asked]
    for indices in batches(lengths, asking.batch_tokens):
        some = _answer_batch(target, [asked[index] for index in indices], asking)
        found.update(zip(indices, some, strict=True))
        advance(len(some), sum(len(item.answer_ids) for item in some))
    return [found[index] for index in range(len(asked))]


@torch.inference_mode()
def _answer_batch(target: Target, asked: Sequence[Question], asking: Asking) -> list[Answer]:
    eos = sorted(target.eos_token_ids)
    padding = eos[0] if eos else 0
    longest = max(len(question.prompt_ids) for question in asked)
    ids = torch.full((len(asked), longest), padding)
    mask = torch.zeros_like(ids)
    for row, question in enumerate(asked):
        start = longest - len(question.prompt_ids)  # prompts end together
        ids[row, start:] = torch.from_numpy(question.prompt_ids)
        mask[row, start:] = 1
    config = GenerationConfig(
        max_new_tokens=asking.max_tokens, do_sample=False, eos_token_id=eos or None, pad_token_id=padding
    )
    processors = LogitsProcessorList([SharedNoise(asked, longest, asking.temperature)] if asking.temperature else [])
    out = target.model.generate(
        input_ids=ids, attention_mask=mask, generation_config=config, logits_processor=processors
    )
    return [
        _cut(question, row, target.eos_token_ids)
        for question, row in zip(asked, out[:, longest:].int().numpy(), strict=True)
    ]


def _cut(question: Question, ids: Tokens, eos: frozenset[int]) -> Answer:
    """The answer up to its first end-of-sequence token; what follows is padding."""
    ends = np.flatnonzero(np.isin(ids, sorted(eos)))
    own = ids[: ends[0] + 1] if len(ends) else ids
    return Answer(question.id, question.source, question.prompt_ids, own, "stop" if len(ends) else "length")


class SharedNoise(LogitsProcessor):
    """Turns argmax into a draw: logits / T plus the noise that a verifier would add at the same seed and position.

    Args:
        asked: the batch's rows.
        longest: tokens before the first answer token, padding counted.
        temperature: above 0.
    """

    def __init__(self, asked: Sequence[Question], longest: int, temperature: float) -> None:
        self._rows = [(question.seed, longest - len(question.prompt_ids)) for question in asked]
        self._temperature = temperature

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """input_ids: [rows, length]; scores: [rows, vocab] -> [rows, vocab]."""
        vocabulary = np.arange(scores.shape[1], dtype=np.int64)
        drawn = [noise.gumbel(seed, input_ids.shape[1] - padding, vocabulary) for seed, padding in self._rows]
        return scores.float() / self._temperature + torch.from_numpy(np.stack(drawn).astype(np.float32))
