"""Texts of a target in a vocabulary of the drafter's own.

Both vocabularies stand for the same bytes, so a place in the text is a number of bytes (a special token counts as one).
Special tokens become the drafter's of the same name; those that it hasn't got, and tokens that stand for nothing, are
left out: so do drafters when they serve (`paceline.drafter.vocabulary`), and what a model is trained on should be what
it will see.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paceline.trainer.data.rows import Reading
from paceline.trainer.recipes.lm_text import LmText, normalised
from paceline.trainer.recipes.own_vocabulary import OwnVocabulary
from paceline.trainer.recipes.token_bytes import TokenBytes


class Aligner:
    """Tells readings in another vocabulary.

    Args:
        target: what the target's tokens stand for.
        own: the drafter's vocabulary.
    """

    def __init__(self, target: TokenBytes, own: OwnVocabulary) -> None:
        self._target, self._own = target, own
        self._widths = np.array([_width(target, own, token) for token in range(len(target.data))], np.int64)
        self._own_widths = np.array([len(data) if data else 1 for data in own.meanings.data], np.int64)
        first = target.ids()  # of several tokens of the target with the same bytes one is the drafter's
        self._direct = np.array([self._id_of(token, first) for token in range(len(target.data))], np.int32)

    def text(self, reading: Reading) -> LmText:
        """A reading as the drafter's model learns it."""
        answer = reading.answer
        tokens = [*answer.prompt_ids.tolist(), *answer.answer_ids.tolist()]
        ids, starts, target_starts = self._places(tokens)
        place_of = {start: index for index, start in enumerate(starts[:-1].tolist())}
        num_prompt = len(answer.prompt_ids)
        said: list[tuple[int, int, int]] = []
        tops: list[tuple[int, int]] = []
        runs: list[tuple[int, float]] = []
        ends = {start: index for index, start in enumerate(starts.tolist())}
        for index, token in enumerate(answer.answer_ids.tolist()):
            begin = place_of.get(int(target_starts[num_prompt + index]))
            if not begin or not self._widths[token]:
                continue  # within one of the drafter's tokens, or there is nothing to see before it
            tops.append((begin - 1, index))
            if (direct := int(self._direct[token])) >= 0:
                said.append((index, begin - 1, direct))
                continue
            end = ends.get(int(target_starts[num_prompt + index + 1]))
            if end is not None:
                said += [(index, row, int(ids[row + 1])) for row in range(begin - 1, end - 1)]
                chosen = _log_prob(reading, index, token)
                runs += [(row, chosen) for row in range(begin - 1, end - 1)]
        return self._made(reading, ids, int(np.searchsorted(starts, target_starts[num_prompt])), said, tops, runs)

    def _made(
        self,
        reading: Reading,
        ids: Sequence[int],
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
            ids=np.array(ids, np.int32),
            first_answer=first_answer,
            num_said=len(reading.answer.answer_ids),
            said_token=columns[0],
            said_row=columns[1],
            said_id=columns[2],
            top_rows=np.array([row for row, _ in tops], np.int32),
            top_ids=top_ids,
            top_log_probs=np.where(top_ids >= 0, log_probs, -np.inf).astype(np.float32),
            run_rows=np.array([row for row, _ in runs], np.int32),
            run_log_probs=np.array([chosen for _, chosen in runs], np.float32),
        )

    def _places(self, tokens: Sequence[int]) -> tuple[list[int], np.ndarray, np.ndarray]:
        """The drafter's tokens; where each begins, and the end; the same of the target's."""
        ids: list[int] = []
        held: list[bytes] = []
        for token in tokens:
            data = self._target.data[token] if token < len(self._target.data) else None
            if data is not None:
                held.append(data)
            elif self._widths[token]:
                ids += self._own.encode(b"".join(held))
                held = []
                ids.append(self._own.special_ids[self._target.specials[token]])
        ids += self._own.encode(b"".join(held))
        starts = np.concatenate(([0], self._own_widths[ids].cumsum())) if ids else np.zeros(1, np.int64)
        return ids, starts, np.concatenate(([0], self._widths[list(tokens)].cumsum()))

    def _id_of(self, token: int, first: dict[bytes, int]) -> int:
        data = self._target.data[token]
        if data is not None:
            own = self._own.id_of(data) if first.get(data) == token else None
        else:
            own = self._own.special_ids.get(self._target.specials.get(token, ""))
        return -1 if own is None else own


def _width(target: TokenBytes, own: OwnVocabulary, token: int) -> int:
    data = target.data[token]
    return len(data) if data is not None else int(target.specials.get(token) in own.special_ids)


def _log_prob(reading: Reading, index: int, token: int) -> float:
    """What the target gave to its own token; of one that is not among its best, no more than the last of them; and if
    nothing is known, nothing is taken off."""
    if not reading.top_ids.shape[1]:
        return 0.0
    found = np.flatnonzero(reading.top_ids[index] == token)
    return float(reading.top_log_probs[index][found[0] if len(found) else -1])
