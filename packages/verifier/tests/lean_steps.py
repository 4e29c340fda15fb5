"""Steps of a lean decoder over known texts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tiny_decoders import make_decoder

from paceline.verifier.model.extract import extract
from paceline.verifier.model.lean import LeanDecoder
from paceline.verifier.model.lean_step import SessionRows, StepShape
from paceline.verifier.model.paged import BLOCK_TOKENS, PagedSlot

LENGTH = 300
SEGMENT = BLOCK_TOKENS  # short, so that contexts cross many edges of segments and of buckets
SHAPE = StepShape(rows=16, sessions=3, session_rows=14, wanted=16)


def make_lean(kind: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> LeanDecoder:
    weights = extract(make_decoder(kind).to(device, dtype))
    return LeanDecoder(weights, num_blocks=24, max_tokens=2 * LENGTH, segment_tokens=SEGMENT)


def chain(slot: PagedSlot, tokens: Sequence[int]) -> SessionRows:
    return SessionRows(slot, tuple(tokens), tuple(range(-1, len(tokens) - 1)), tuple(range(len(tokens))))


def run(lean: LeanDecoder, sessions: Sequence[SessionRows], shape: StepShape = SHAPE) -> list[torch.Tensor]:
    """Each session's wanted logits."""
    step = lean.step(shape)
    step.fill(sessions)
    logits = lean.forward(step)
    return [rows.clone() for rows in logits.split([len(session.wanted) for session in sessions])]


def read(lean: LeanDecoder, tokens: Sequence[int], chunk: int, shape: StepShape = SHAPE) -> torch.Tensor:
    """Logits [tokens, vocab] of a text that is read in chunks."""
    slot = lean.cache.new_slot(len(tokens))
    rows = []
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        rows += run(lean, [chain(slot, part)], shape)
        lean.cache.commit([(slot, range(len(part)))])
    lean.cache.free(slot)
    return torch.cat(rows)


def fill(lean: LeanDecoder, tokens: Sequence[int], capacity: int = LENGTH) -> PagedSlot:
    """A slot with these tokens, read one by one, as plain decoding would have left it."""
    slot = lean.cache.new_slot(capacity)
    for token in tokens:
        run(lean, [chain(slot, [token])])
        lean.cache.commit([(slot, [0])])
    return slot
