"""The lean decoder: against transformers, and to the bit against itself in other groupings of the same shape."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from lean_steps import LENGTH, SHAPE, Lean, chain, check_neighbours, check_trees, fill, make_lean, read, run
from tiny_decoders import KINDS, make_decoder, own_logits
from tiny_models import VOCAB, random_tokens, random_tree

from paceline.verifier.acceptance import coupled
from paceline.verifier.model.blocks import BLOCK_TOKENS
from paceline.verifier.model.lean import SEGMENT_TOKENS
from paceline.verifier.model.lean_step import SessionRows, StepShape
from paceline.verifier.sampling import Sampling
from paceline.verifier.sampling_device import pick_rows


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2 sliding", "qwen3", "llama 9 of 3"])
def family(request):
    """A decoder, and for two random texts the logits of plain decoding."""
    lean = make_lean(request.param)
    texts = [random_tokens(LENGTH, seed) for seed in (1, 2)]
    return lean, [(tokens, read(lean, tokens, 1)) for tokens in texts]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "chunk"),
    [(StepShape(32, 1, 32, 32), 32), (StepShape(128, 1, 128, 128), 101), (StepShape(8, 4, 3, 8), 3)],
    ids=str,
)
def test_agrees_with_transformers(kind, shape, chunk):
    model = make_decoder(kind)
    tokens = random_tokens(LENGTH, seed=1)
    expected = own_logits(model, tokens)
    lean = Lean(model, num_blocks=5, max_tokens=LENGTH)
    assert (read(lean, tokens, chunk, shape) - expected).abs().max() < 1e-4


def test_segments_of_the_usual_size_agree_too():
    model = make_decoder("qwen3 sliding")
    tokens = random_tokens(LENGTH, seed=1)
    lean = Lean(model, num_blocks=5, max_tokens=LENGTH, segment=SEGMENT_TOKENS)
    assert (read(lean, tokens, 14) - own_logits(model, tokens)).abs().max() < 1e-4


def test_bfloat16_agrees_as_far_as_it_can():
    model = make_decoder("llama 9 of 3").to(torch.bfloat16)
    tokens = random_tokens(100, seed=1)
    theirs = own_logits(model, tokens).float()
    ours = read(Lean(model, 2, 100, SEGMENT_TOKENS), tokens, 14).float()
    exact = own_logits(model.float(), tokens)

    def distance(logits: torch.Tensor) -> float:
        return float((logits - exact).square().mean().sqrt() / exact.std())

    assert distance(ours) < 1.2 * distance(theirs) < 0.2


@pytest.mark.parametrize("chunk", [2, 5, 14])
def test_reading_in_chunks_gives_the_bits_of_plain_decoding(family, chunk):
    lean, texts = family
    tokens, plain = texts[0]
    assert torch.equal(read(lean, tokens, chunk), plain)


def advance(lean: Lean, rng: random.Random, sessions: list, num_steps: int) -> None:
    """Steps of several sessions at once, each with a random tree over its known text; compares the rows on its path."""
    for _ in range(num_steps):
        rows, checks, paths = [], [], []
        for slot, (tokens, plain) in sessions:
            start = slot.length
            path = tokens[start : min(start + rng.choice((1, 1, 2, 4)), LENGTH)]
            if not path:
                continue
            tree, parents, on_path = random_tree(path, rng.choice((0, 0, 1)), rng)
            rows.append(SessionRows(slot, tuple(tree), tuple(parents), tuple(on_path)))
            checks.append(plain[start : start + len(path)])
            paths.append(on_path)
        outputs = run(lean, rows)
        first, moves = 0, []
        for session, output, expected, on_path in zip(rows, outputs, checks, paths, strict=True):
            assert torch.equal(output, expected), (session.slot.length, session.parents)
            kept = on_path[: rng.randrange(1, len(on_path) + 1)]
            moves.append((session.slot, [first + row for row in kept]))
            first += len(session.tokens)
        lean.cache.commit(moves)


@pytest.mark.parametrize("seed", range(3))
def test_trees_with_junk_branches_give_the_bits_of_plain_decoding(family, seed):
    lean, texts = family
    check_trees(lean, texts[0], seed)


@pytest.mark.parametrize("seed", range(3))
def test_any_mix_of_sessions_gives_the_bits_of_plain_decoding(family, seed):
    lean, texts = family
    rng = random.Random(seed)
    starts = (rng.randrange(0, 20), rng.randrange(BLOCK_TOKENS, 200), rng.randrange(2 * BLOCK_TOKENS, 250))
    sessions = [(fill(lean, texts[number % 2][0][:start]), texts[number % 2]) for number, start in enumerate(starts)]
    advance(lean, rng, sessions, num_steps=15)
    for slot, _ in sessions:
        lean.pool.close(slot)


def test_a_neighbour_with_a_longer_context_changes_no_bit(family):
    check_neighbours(*family)


def test_a_candidate_that_overflows_harms_nobody():
    model = make_decoder("llama")
    tokens = random_tokens(80, seed=1)
    poison = VOCAB - 1
    tokens = [token if token != poison else 5 for token in tokens]
    model.model.embed_tokens.weight.data[poison] = float("inf")
    lean = Lean(model, num_blocks=4, max_tokens=128)
    plain = read(lean, tokens, 1)
    slot, other = fill(lean, tokens[:70], 100), fill(lean, tokens[:20], 100)
    tree = SessionRows(slot, (poison, tokens[70], poison, tokens[71]), (-1, -1, 1, 1), (0, 1, 3))
    output, beside = run(lean, [tree, chain(other, tokens[20:22])])
    assert not output[0].isfinite().any()
    assert torch.equal(output[1:], plain[70:72])
    assert torch.equal(beside, plain[20:22])
    lean.cache.commit([(slot, [1, 3]), (other, [])])
    (after,) = run(lean, [chain(slot, tokens[72:75])])
    assert torch.equal(after, plain[72:75])
    # A session that took the poison leaves its blocks, and the next one is none the worse.
    run(lean, [chain(other, [poison])])
    lean.cache.commit([(other, [0])])
    assert not run(lean, [chain(other, [7])])[0].isfinite().any()
    lean.pool.close(other)
    lean.pool.close(slot)
    assert torch.equal(read(lean, tokens, 2), plain)


SAMPLINGS = [Sampling(), Sampling(0.9, seed=7), Sampling(0.8, top_k=40, top_p=0.9, seed=2**63 + 5)]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=["greedy", "sampled", "filtered"])
def test_speculation_gives_the_text_of_plain_decoding(family, sampling):
    lean, texts = family
    prompt, count = texts[0][0][:40], 60

    def generate(candidates: Sequence[int]) -> tuple[list[int], int]:
        """The text after the prompt, and how many steps it took; `candidates` is what a drafter thinks it will be."""
        slot = fill(lean, prompt[:-1])
        rng = random.Random(3)
        text, steps = [prompt[-1]], 0
        while len(text) <= count:
            path = list(candidates[len(text) - 1 :][: rng.choice((0, 3, 6))])
            tree, parents, _ = random_tree(path, 4 if candidates else 0, rng)
            rows = (text[-1], *tree), (-1, *(parent + 1 for parent in parents))
            (logits,) = run(lean, [SessionRows(slot, *rows, tuple(range(len(tree) + 1)))])
            depths = [0]
            for parent in rows[1][1:]:
                depths.append(depths[parent] + 1)
            positions = [slot.length + 1 + depth for depth in depths]
            picks = pick_rows(logits, [sampling] * len(depths), positions).tolist()
            walk = coupled(tree, parents, lambda node, picks=picks: picks[node + 1])
            lean.cache.commit([(slot, [0, *(node + 1 for node in walk.accepted)])])
            text += walk.tokens
            steps += 1
        lean.pool.close(slot)
        return text[1 : count + 1], steps

    plain, plain_steps = generate([])
    fast, steps = generate(plain)
    assert fast == plain
    assert plain_steps == count
    assert steps < count / 2


def test_what_does_not_fit_the_shape_is_refused():
    lean = make_lean("llama")
    step = lean.step(SHAPE)
    slots = [lean.new_slot(10) for _ in range(4)]
    with pytest.raises(ValueError, match="4 sessions, and the step's shape has room for 3"):
        step.fill([chain(slot, [1]) for slot in slots])
    with pytest.raises(ValueError, match="15 rows of one session, and the step's shape has room for 14"):
        step.fill([chain(slots[0], [1] * 15)])
    with pytest.raises(ValueError, match="18 rows, and the step's shape has room for 16"):
        step.fill([chain(slot, [1] * 9) for slot in slots[:2]])
    with pytest.raises(ValueError, match="rows is 12; it must be one of 2, 8"):
        StepShape(12, 1, 1, 1)
    with pytest.raises(ValueError, match="session_rows is 17; it must be from 1 to the 16 rows"):
        StepShape(16, 1, 17, 1)
    with pytest.raises(ValueError, match="multiple of 64"):
        Lean(make_decoder("llama"), 1, 64, segment=100)
