"""Steps of a lean decoder over known texts, and the checks that hold on any device."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from tiny_decoders import make_decoder
from tiny_models import random_tree
from transformers import PreTrainedModel

from paceline.verifier.model.blocks import BLOCK_TOKENS, BlockPool, KVSlot
from paceline.verifier.model.extract import extract
from paceline.verifier.model.lean import LeanDecoder
from paceline.verifier.model.lean_step import SessionRows, StepShape

LENGTH = 300
SEGMENT = BLOCK_TOKENS  # short, so that contexts cross many edges of segments and of buckets
SHAPE = StepShape(rows=16, sessions=3, session_rows=14, wanted=16)


class Lean(LeanDecoder):
    """A decoder, and who holds which block of its cache."""

    def __init__(
        self, model: PreTrainedModel, num_blocks: int = 24, max_tokens: int = 2 * LENGTH, segment: int = SEGMENT
    ) -> None:
        super().__init__(extract(model), num_blocks, max_tokens, segment)
        self.pool = BlockPool(num_blocks)

    def new_slot(self, num_tokens: int) -> KVSlot:
        slot = self.pool.open("", ())
        assert self.pool.reserve(slot, num_tokens)
        return slot


def make_lean(kind: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Lean:
    return Lean(make_decoder(kind).to(device, dtype))


def chain(slot: KVSlot, tokens: Sequence[int]) -> SessionRows:
    return SessionRows(slot, tuple(tokens), tuple(range(-1, len(tokens) - 1)), tuple(range(len(tokens))))


def run(lean: Lean, sessions: Sequence[SessionRows], shape: StepShape = SHAPE) -> list[torch.Tensor]:
    """Each session's wanted logits."""
    step = lean.step(shape)
    step.fill(sessions)
    logits = lean.forward(step)
    return [rows.clone() for rows in logits.split([len(session.wanted) for session in sessions])]


def read(lean: Lean, tokens: Sequence[int], chunk: int, shape: StepShape = SHAPE) -> torch.Tensor:
    """Logits [tokens, vocab] of a text that is read in chunks."""
    slot = lean.new_slot(len(tokens))
    rows = []
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        rows += run(lean, [chain(slot, part)], shape)
        lean.cache.commit([(slot, range(len(part)))])
    lean.pool.close(slot)
    return torch.cat(rows)


def fill(lean: Lean, tokens: Sequence[int], capacity: int = LENGTH) -> KVSlot:
    """A slot with these tokens, read one by one, as plain decoding would have left it."""
    slot = lean.new_slot(capacity)
    for token in tokens:
        run(lean, [chain(slot, [token])])
        lean.cache.commit([(slot, [0])])
    return slot


def check_trees(lean: Lean, text: tuple[list[int], torch.Tensor], seed: int) -> None:
    """Trees with junk branches over a text give the bits of `text`'s logits, those of plain decoding."""
    rng = random.Random(seed)
    tokens, plain = text
    slot = fill(lean, tokens[: rng.randrange(100, 130)])
    for _ in range(20):
        start = slot.length
        path = tokens[start : start + rng.randrange(1, 9)]
        tree, parents, on_path = random_tree(path, rng.randrange(0, 15 - len(path)), rng)
        (output,) = run(lean, [SessionRows(slot, tuple(tree), tuple(parents), tuple(on_path))])
        assert torch.equal(output, plain[start : start + len(path)]), (start, parents)
        lean.cache.commit([(slot, on_path[: rng.randrange(1, len(path) + 1)])])
    lean.pool.close(slot)


def check_neighbours(lean: Lean, texts: Sequence[tuple[list[int], torch.Tensor]]) -> None:
    """A neighbour with a longer context changes no bit."""
    (tokens, plain), (other, other_plain) = texts
    short, long = fill(lean, tokens[:50]), fill(lean, other[:290])
    outputs = run(lean, [chain(long, other[290:292]), chain(short, tokens[50:52])])
    assert torch.equal(outputs[0], other_plain[290:292])
    assert torch.equal(outputs[1], plain[50:52])
    lean.pool.close(short)
    lean.pool.close(long)
