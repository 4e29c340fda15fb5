"""Probes, on the machine and model at hand, whether a step's shape can change its logits.

Paceline's text with speculation equals its text without because the logits are the same to the bit. That rests on
properties of matrix kernels that their makers don't promise, so they are measured when a model is loaded, not assumed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from paceline.verifier.model.batch import ROOT, SessionPlan
from paceline.verifier.model.runner import Runner
from paceline.verifier.sampling import Sampler, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NUM_TOKENS = 12
PLACES_APART = 5
PROBE_SEED = 20_261_121


def probe(runner: Runner, num_tokens: int = NUM_TOKENS) -> float:
    """Greatest difference of any logit between decoding tokens one by one and verifying them in trees; 0.0 is exact.

    Random tokens go through the model singly; then the same ones as a prompt in uneven chunks, as branches of trees
    with junk between the ancestors, and singly behind another session's rows, at other places of the step. Takes about
    3.5 x `num_tokens` forward passes.
    """
    generator = torch.Generator().manual_seed(PROBE_SEED)
    high = runner.vocab_size
    tokens = torch.randint(high, (num_tokens,), generator=generator).tolist()
    junk = torch.randint(high, (num_tokens,), generator=generator).tolist()
    single = _one_by_one(runner, tokens)
    worst = 0.0
    for chunk in (1, 5):
        worst = max(worst, _difference(_in_chunks(runner, tokens, chunk), single))
    for depth in (3,):
        worst = max(worst, _difference(_in_trees(runner, tokens, junk, depth), single))
    return max(worst, _difference(_behind_another(runner, tokens, junk), single))


def disagreement(runner: Runner, reference: torch.Tensor) -> float:
    """How far the runner's logits are from `reference_logits`, relative to their spread: some 0.03 in bfloat16.

    A greater one means that the model does something that the runner knows nothing of (attention sinks, a state beside
    the keys and values), so its text would be wrong.
    """
    single = torch.stack(list(_one_by_one(runner, _probe_tokens(runner.vocab_size)).values())).float()
    return float((single - reference).square().mean().sqrt() / reference.std())


@torch.inference_mode()
def reference_logits(model: PreTrainedModel) -> torch.Tensor:
    """Logits [NUM_TOKENS, vocab], float32, by transformers' own code. Before a runner takes the model over."""
    vocab_size = int(model.get_input_embeddings().weight.shape[0])
    chosen = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        ids = torch.tensor([_probe_tokens(vocab_size)], device=model.device)
        logits: torch.Tensor = model(ids, use_cache=False).logits[0].float()
    finally:
        model.set_attn_implementation(chosen)
    return logits


def _probe_tokens(vocab_size: int) -> list[int]:
    generator = torch.Generator().manual_seed(PROBE_SEED)
    tokens: list[int] = torch.randint(vocab_size, (NUM_TOKENS,), generator=generator).tolist()
    return tokens


def _difference(some: dict[int, torch.Tensor], reference: dict[int, torch.Tensor]) -> float:
    # Not a number counts as infinitely far: a model that yields it is exact about nothing.
    return max(
        float((logits - reference[position]).abs().nan_to_num(nan=float("inf")).max())
        for position, logits in some.items()
    )


def _sampler() -> Sampler:
    return Sampler(Sampling())


@torch.inference_mode()
def _one_by_one(runner: Runner, tokens: list[int]) -> dict[int, torch.Tensor]:
    slot = runner.new_slot(len(tokens))
    logits: dict[int, torch.Tensor] = {}
    for position, token in enumerate(tokens):
        plan = SessionPlan(slot, (token,), True, (), (), _sampler())
        logits[position] = runner.forward((plan,))[0]
        runner.commit(slot, 1, ())
    runner.pool.close(slot)
    return logits


@torch.inference_mode()
def _in_chunks(runner: Runner, tokens: list[int], chunk: int) -> dict[int, torch.Tensor]:
    slot = runner.new_slot(len(tokens))
    logits: dict[int, torch.Tensor] = {}
    for start in range(0, len(tokens), chunk):
        part = tuple(tokens[start : start + chunk])
        plan = SessionPlan(slot, part, True, (), (), _sampler())
        logits[start + len(part) - 1] = runner.forward((plan,))[0]
        runner.commit(slot, len(part), ())
    runner.pool.close(slot)
    return logits


@torch.inference_mode()
def _in_trees(runner: Runner, tokens: list[int], junk: list[int], depth: int) -> dict[int, torch.Tensor]:
    """Each step's tree holds the next `depth` tokens as one path, and a junk sibling before each of them."""
    slot = runner.new_slot(len(tokens))
    logits: dict[int, torch.Tensor] = {}
    for start in range(0, len(tokens), depth + 1):
        path = tokens[start + 1 : start + 1 + depth]
        tree: list[int] = []
        parents: list[int] = []
        accepted: list[int] = []
        for step, token in enumerate(path):
            parent = accepted[-1] if accepted else -1
            tree += [junk[start + step], token]
            parents += [parent, parent]
            accepted.append(len(tree) - 1)
        plan = SessionPlan(slot, (tokens[start],), True, tuple(tree), tuple(parents), _sampler())
        rows = runner.forward((plan,))
        logits[start] = rows[0]
        for offset, node in enumerate(accepted):
            logits[start + 1 + offset] = rows[node + 1]
        runner.commit(slot, 1, tuple(accepted))
    runner.pool.close(slot)
    return logits


@torch.inference_mode()
def _behind_another(runner: Runner, tokens: list[int], junk: list[int]) -> dict[int, torch.Tensor]:
    """Another session's tree comes first in each step, a greater one each time."""
    slot, other = runner.new_slot(len(tokens)), runner.new_slot(1)
    logits: dict[int, torch.Tensor] = {}
    for position, token in enumerate(tokens):
        tree = tuple(junk * PLACES_APART)[: min(PLACES_APART * position, runner.max_session_rows - 1)]
        first = SessionPlan(other, (junk[0],), True, tree, (ROOT,) * len(tree), _sampler())
        logits[position] = runner.forward((first, SessionPlan(slot, (token,), True, (), (), _sampler())))[-1]
        runner.commit(slot, 1, ())
    runner.pool.close(slot)
    runner.pool.close(other)
    return logits
