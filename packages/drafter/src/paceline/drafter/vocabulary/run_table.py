"""Which runs of draft tokens make one target token: learned, bounded, and kept over restarts."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.vocabulary.base import Vocabulary

MAX_RUNS = 1 << 16  # several times what a text of a million tokens needs
MAX_RUN = 8  # draft tokens of a run
MAX_SAVED_CHARS = 16 << 20
_VERSION = 1


class RunTable:
    """Runs by their draft tokens; the one that was seen least recently leaves first.

    Args:
        target, draft: vocabularies.
        direct: draft tokens that can be proposed by themselves [draft.size].
        max_runs: bound.

    Attributes:
        allowed: draft tokens that can be proposed or are part of a run [draft.size]; changes in place.
    """

    def __init__(
        self, target: Vocabulary, draft: Vocabulary, direct: npt.NDArray[np.bool_], max_runs: int = MAX_RUNS
    ) -> None:
        self.allowed = direct.copy()
        self._direct = direct
        self._target, self._draft = target, draft
        self._max_runs = max_runs
        self._runs: OrderedDict[tuple[int, ...], int] = OrderedDict()
        self._uses = np.zeros(draft.size, np.int64)  # how many runs each token is part of

    def __len__(self) -> int:
        return len(self._runs)

    def runs(self) -> list[tuple[tuple[int, ...], int]]:
        """Each run with the target's token, the least recently seen first."""
        return list(self._runs.items())

    def learn(self, run: Sequence[int], token: int) -> None:
        """The target wrote as one token what is a run of draft tokens. Ignored unless both have the same bytes."""
        key = tuple(run)
        if key in self._runs:
            self._runs.move_to_end(key)
        elif 2 <= len(key) <= MAX_RUN and self._same_bytes(key, token):
            self._runs[key] = token
            self._count(key, 1)
            if len(self._runs) > self._max_runs:
                oldest, _ = self._runs.popitem(last=False)
                self._count(oldest, -1)

    def longest(self, tokens: Sequence[int], start: int) -> tuple[int, int] | None:
        """The longest run that a path has from an index on: its length and the target's token."""
        for length in range(min(MAX_RUN, len(tokens) - start), 1, -1):
            token = self._runs.get(tuple(tokens[start : start + length]))
            if token is not None:
                return length, token
        return None

    def _same_bytes(self, run: Iterable[int], token: int) -> bool:
        parts = [self._draft.bytes_of(part) for part in run]
        return None not in parts and b"".join(part for part in parts if part) == self._target.bytes_of(token)

    def _count(self, run: Iterable[int], change: int) -> None:
        for token in run:
            self._uses[token] += change
            self.allowed[token] = self._direct[token] or self._uses[token] > 0

    # Kept over restarts.

    def save(self) -> str:
        """The table as JSON: hashes of both vocabularies, and a list [target token, draft tokens …] for each run."""
        runs = [[token, *run] for run, token in self.runs()]
        header = {"version": _VERSION, "target": self._target.content_hash, "draft": self._draft.content_hash}
        return json.dumps(header | {"runs": runs}, separators=(",", ":"))

    def restore(self, content: str) -> None:
        """Adds what `save` wrote. What a file claims is checked against both vocabularies, so it can do no harm.

        Raises:
            PacelineError: OUT_OF_RANGE if it is too long, MALFORMED if it isn't such a table, VOCABULARY_MISMATCH if
                it is one of other vocabularies. Nothing is added then.
        """
        for run, token in list(self._checked(content)):
            self.learn(run, token)

    def _checked(self, content: str) -> Iterator[tuple[list[int], int]]:
        if len(content) > MAX_SAVED_CHARS:
            raise out_of_range("ngram_cache", f"{len(content)} characters", f"at most {MAX_SAVED_CHARS}")
        try:
            whole = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _malformed("ngram_cache", "is not JSON") from error
        if not isinstance(whole, dict) or whole.get("version") != _VERSION:
            raise _malformed("ngram_cache.version", f"is not {_VERSION}")
        for field, vocabulary in (("target", self._target), ("draft", self._draft)):
            if whole.get(field) != vocabulary.content_hash:
                message = f"ngram_cache.{field} names another vocabulary than this {field}'s; delete the file"
                raise PacelineError(Reason.VOCABULARY_MISMATCH, message, field=f"ngram_cache.{field}")
        runs = whole.get("runs")
        if not isinstance(runs, list) or len(runs) > MAX_RUNS:
            raise _malformed("ngram_cache.runs", f"is not a list of at most {MAX_RUNS} runs")
        for index, entry in enumerate(runs):
            field = f"ngram_cache.runs[{index}]"
            if not _is_run(entry):
                raise _malformed(field, f"is not a target token and 2 to {MAX_RUN} draft tokens")
            token, *run = entry
            if not self._same_bytes(run, token):
                raise _malformed(field, "has different bytes on its two sides")
            yield run, token


def _is_run(entry: Any) -> bool:
    return (
        isinstance(entry, list)
        and 3 <= len(entry) <= MAX_RUN + 1
        and all(isinstance(token, int) and not isinstance(token, bool) for token in entry)
    )


def _malformed(field: str, why: str) -> PacelineError:
    return PacelineError(Reason.MALFORMED, f"{field} {why}; delete the file, it will be learned anew", field=field)
