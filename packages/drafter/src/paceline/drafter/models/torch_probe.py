"""Whether a model follows a tree's branches once its attention is exchanged: measured, since nobody promises it."""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from paceline.drafter.models.base import KVCache, LanguageModel, Logits, Rows, logits_of
from paceline.drafter.models.torch_load import set_attention, unusable
from paceline.wire.errors import PacelineError

NUM_PROBED = 12
# Of the logits' spread. Rounding alone is some 1e-6 in float32 and 0.03 in bfloat16; a part of the model that is left
# out moves it to 0.5 and more.
MAX_APART = {torch.float32: 0.01, torch.bfloat16: 0.25, torch.float16: 0.1}


@torch.inference_mode()
def reference_logits(name: str, model: PreTrainedModel) -> Logits:
    """What transformers' own code says of some tokens [NUM_PROBED, vocab_size]. Raises UNUSABLE_REVISION."""
    set_attention(model, "eager")
    num_embeddings = int(model.get_input_embeddings().weight.shape[0])
    ids = torch.from_numpy(probed_tokens(num_embeddings))[None].to(model.device)
    try:
        logits: Logits = model(input_ids=ids, use_cache=False).logits[0].float().cpu().numpy()
    except Exception as error:  # whatever a model's code may raise
        raise unusable(name, f"it can't be run: {' '.join(str(error).split())[:300]}; choose another one") from error
    if logits.shape[1] != num_embeddings:
        raise unusable(name, f"it reads {num_embeddings} tokens and writes {logits.shape[1]}; choose a causal decoder")
    return logits


def probed_tokens(vocab_size: int) -> np.ndarray:
    """A few arbitrary tokens, always the same."""
    return np.random.default_rng(0).integers(vocab_size, size=NUM_PROBED)


def probe(name: str, model: LanguageModel, reference: Logits, dtype: torch.dtype) -> None:
    """That the model says the same of a branch of a tree, and over our cache, as by transformers' own code.

    So everything that isn't reached by exchanging its attention is found, whatever it is: attention in both
    directions, a state beside keys and values, biases by distance, sinks.

    Raises:
        PacelineError: UNUSABLE_REVISION.
    """
    tokens = probed_tokens(reference.shape[1])
    half = NUM_PROBED // 2
    cache = model.new_cache()
    try:
        first = logits_of(model, [_chain(cache, tokens[:half])])[0]
        second = logits_of(model, [_branch(cache, tokens[half:])])[0]
    except PacelineError:
        raise
    except Exception as error:  # as above
        raise unusable(name, f"it can't be run: {' '.join(str(error).split())[:300]}; choose another one") from error
    apart = float(np.sqrt(np.square(np.concatenate((first, second)) - reference).mean()) / reference.std())
    limit = MAX_APART[dtype]
    if not apart <= limit:  # also if it isn't a number
        raise unusable(
            name,
            f"its logits on a tree differ from its own by {apart:.3g} of their spread (at most {limit:g}), so "
            "something in it doesn't follow the tree; choose a plain causal decoder",
        )


def _chain(cache: KVCache, tokens: np.ndarray) -> Rows:
    count = len(tokens)
    return Rows(cache, tokens, np.arange(count), np.tri(count, dtype=bool), tuple(range(count)))


def _branch(cache: KVCache, tokens: np.ndarray) -> Rows:
    """Behind each token, one that is not on the path."""
    count, past = len(tokens), len(cache)
    doubled = np.repeat(tokens, 2)
    doubled[1::2] = tokens[::-1]
    positions = past + np.repeat(np.arange(count), 2)
    visible = np.zeros((2 * count, past + 2 * count), bool)
    visible[:, :past] = True
    for row in range(2 * count):
        visible[row, past : past + row + 1 : 2] = True
        visible[row, past + row] = True
        if row % 2:
            visible[row, past + row - 1] = False  # a sibling, not an ancestor
    return Rows(cache, doubled, positions, visible, tuple(range(0, 2 * count, 2)))
