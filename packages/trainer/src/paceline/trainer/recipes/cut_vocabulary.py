"""A vocabulary that is some of the target's tokens: those that it says most (VocabTrim, FR-Spec)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paceline.trainer.data.rows import Reading
from paceline.trainer.recipes.lm_text import LmText, normalised

Cut = npt.NDArray[np.uint32]  # the target's id of each of the drafter's, as in vocabulary.bin


class Cutter:
    """Tells readings in a cut vocabulary, token for token.

    Args:
        cut: the vocabulary.
        target_vocab_size: ids of the target are below it.
    """

    def __init__(self, cut: Cut, target_vocab_size: int) -> None:
        self._own = np.full(target_vocab_size, -1, np.int32)
        self._own[cut] = np.arange(len(cut), dtype=np.int32)
        self._unknown = len(cut)

    def text(self, reading: Reading) -> LmText:
        """A reading as the drafter's model learns it."""
        answer = reading.answer
        own = self._own[np.concatenate((answer.prompt_ids, answer.answer_ids))]
        num_prompt, num_said = len(answer.prompt_ids), len(answer.answer_ids)
        rows = np.arange(num_prompt - 1, num_prompt - 1 + num_said, dtype=np.int32)
        said = np.flatnonzero(own[num_prompt:] >= 0).astype(np.int32)
        top_ids = self._own[reading.top_ids]
        log_probs = normalised(reading.top_log_probs.astype(np.float32))
        return LmText(
            id=answer.id,
            ids=np.where(own >= 0, own, self._unknown).astype(np.int32),
            first_answer=num_prompt,
            num_said=num_said,
            said_token=said,
            said_row=rows[said],
            said_id=own[num_prompt:][said],
            top_rows=rows,
            top_ids=top_ids,
            top_log_probs=np.where(top_ids >= 0, log_probs, -np.inf).astype(np.float32),
            run_rows=np.zeros(0, np.int32),
            run_log_probs=np.zeros(0, np.float32),
        )
