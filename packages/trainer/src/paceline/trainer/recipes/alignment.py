"""Readings of a target in a vocabulary of the drafter's own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.trainer.data.rows import Reading
from paceline.trainer.learning.alignment import NONE, Ids, align, map_tokens
from paceline.trainer.recipes.lm_text import LmText, normalised
from paceline.wire.vocabulary.base import Vocabulary


class Aligner:
    """Tells readings in another vocabulary.

    Args:
        target: the target's vocabulary.
        target_size: ids of the target are below it; may be more than its tokenizer has.
        own: the drafter's vocabulary.
    """

    def __init__(self, target: Vocabulary, target_size: int, own: Vocabulary) -> None:
        self._target, self._own = target, own
        self._direct = map_tokens(target, own, target_size)

    def text(self, reading: Reading) -> LmText:
        """A reading as the drafter's model learns it."""
        answer = reading.answer
        aligned = align(self._target, self._own, answer.prompt_ids.tolist(), answer.answer_ids.tolist())
        begins = _places(aligned.source, aligned.first)
        ends = _places(aligned.stops, aligned.first)
        said: list[tuple[int, int, int]] = []
        tops: list[tuple[int, int]] = []
        runs: list[tuple[int, float]] = []
        for index, token in enumerate(answer.answer_ids.tolist()):
            begin = begins.get(index)
            if not begin:
                continue  # within one of the drafter's tokens, or there is nothing to see before it
            tops.append((begin - 1, index))
            if (direct := int(self._direct[token])) != NONE:
                said.append((index, begin - 1, direct))
                continue
            rows = range(begin - 1, ends.get(index, begin - 1))
            said += [(index, row, int(aligned.ids[row + 1])) for row in rows]
            runs += [(row, _log_prob(reading, index, token)) for row in rows]
        return self._made(reading, aligned.ids, aligned.first, said, tops, runs)

    def _made(
        self,
        reading: Reading,
        ids: Ids,
        first_answer: int,
        said: list[tuple[int, int, int]],
        tops: list[tuple[int, int]],
        runs: list[tuple[int, float]],
    ) -> LmText:
        columns = np.array(said, np.int32).reshape(-1, 3).T
        places = np.array([index for _, index in tops], np.int64)
        top_ids = self._direct[reading.top_ids[places]]
        log_probs = normalised(reading.top_log_probs[places].astype(np.float32))
        return LmText(
            id=reading.answer.id,
            ids=ids.astype(np.int32),
            first_answer=first_answer,
            num_said=len(reading.answer.answer_ids),
            said_token=columns[0],
            said_row=columns[1],
            said_id=columns[2],
            top_rows=np.array([row for row, _ in tops], np.int32),
            top_ids=top_ids.astype(np.int32),
            top_log_probs=np.where(top_ids != NONE, log_probs, -np.inf).astype(np.float32),
            run_rows=np.array([row for row, _ in runs], np.int32),
            run_log_probs=np.array([chosen for _, chosen in runs], np.float32),
        )


def _places(indices: Ids, first: int) -> dict[int, int]:
    """In which of all the drafter's tokens each of the target's begins, or ends."""
    return {index: first + row for row, index in enumerate(indices.tolist()) if index != NONE}


def _log_prob(reading: Reading, index: int, token: int) -> float:
    """What the target gave to its own token; of one that is not among its best, no more than the last of them; and if
    nothing is known, nothing is taken off."""
    if not reading.top_ids.shape[1]:
        return 0.0
    found: Sequence[int] = np.flatnonzero(reading.top_ids[index] == token).tolist()
    return float(reading.top_log_probs[index][found[0] if found else -1])
