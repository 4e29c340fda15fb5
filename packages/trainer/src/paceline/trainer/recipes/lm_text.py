"""A prompt and the target's answer as a small language model learns them: in its own tokens.

A token of the target that a model is to say is *said* by one or several of the model's tokens that follow one
another: each at a row, given all tokens before it. A token that begins or ends within one of the model's tokens can't
be said at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class LmText:
    """T tokens of a text in the model's vocabulary. Row r, from 0 to T - 2, has seen tokens 0..r and says what is next.

    Attributes:
        id: of the prompt.
        ids: [T]; vocab_size is any token that the model can't say.
        first_answer: index of the answer's first token.
        num_said: answer tokens of the target.
        said_token, said_row, said_id: [S] each: to say the target's answer token `said_token` the model must say
            `said_id` at `said_row`. In order; a run has several entries.
        top_rows: [R], rows at which a token of the target's answer begins, in order.
        top_ids, top_log_probs: [R, k], what the target thought there, in the model's vocabulary; -1 and -inf where the
            model has no such token.
        run_rows, run_log_probs: [U] each: rows of runs, and the log-probability that the target gave to its token.
    """

    id: str
    ids: Ids
    first_answer: int
    num_said: int
    said_token: Ids
    said_row: Ids
    said_id: Ids
    top_rows: Ids
    top_ids: Ids
    top_log_probs: npt.NDArray[np.float32]
    run_rows: Ids
    run_log_probs: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)


def tail(text: LmText, length: int) -> LmText:
    """The end of a text that is too long: its last `length` tokens. Rows that are lost are no longer said."""
    cut = len(text) - length
    if cut <= 0:
        return text
    lost = set(text.said_token[text.said_row < cut].tolist())
    said = np.array([token not in lost for token in text.said_token.tolist()], dtype=bool)
    top, run = text.top_rows >= cut, text.run_rows >= cut
    return LmText(
        id=text.id,
        ids=text.ids[cut:],
        first_answer=max(0, text.first_answer - cut),
        num_said=text.num_said,
        said_token=text.said_token[said],
        said_row=text.said_row[said] - cut,
        said_id=text.said_id[said],
        top_rows=text.top_rows[top] - cut,
        top_ids=text.top_ids[top],
        top_log_probs=text.top_log_probs[top],
        run_rows=text.run_rows[run] - cut,
        run_log_probs=text.run_log_probs[run],
    )


def normalised(log_probs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Log-probabilities [n, k] that may add up to a little more than 1, for they were kept in float16."""
    sums = np.exp(log_probs.astype(np.float64)).sum(axis=-1, keepdims=True)
    return (log_probs - np.log(np.maximum(sums, 1.0))).astype(np.float32)
