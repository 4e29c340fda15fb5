"""Whether a step should wait for drafts that are on their way.

Starting now commits what the trie promises in one forward pass; waiting adds what an answer of the drafter usually adds
to that promise, and costs the wait and the rows that it fills. Waiting is worth it when it raises tokens per second. A
slow, silent or useless drafter makes it not worth it by itself, since both its latency and its gain are measured.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass

INITIAL_LATENCY_S = 0.003
INITIAL_GAIN = 0.7
LATENCY_ADAPTATION = 0.2
GAIN_ADAPTATION = 0.1
PROMISED = (1.25, 1.75, 2.5, 4.0)  # tokens before an answer, between which gains are told apart
USUAL_DEVIATION = 0.125  # of the mean
PATIENCE = 2.0  # deviations beyond the mean after which an answer is overdue
MAX_WAIT_S = 0.25


@dataclass(slots=True)
class Latency:
    """Running mean and mean deviation of how long a drafter takes to answer a commit, in seconds."""

    mean_s: float = INITIAL_LATENCY_S
    deviation_s: float = INITIAL_LATENCY_S / 2

    def observe(self, seconds: float) -> None:
        error = seconds - self.mean_s
        self.mean_s += LATENCY_ADAPTATION * error
        self.deviation_s += LATENCY_ADAPTATION * (abs(error) - self.deviation_s)

    def forget(self, seconds: float) -> None:
        """What was observed before holds no more; an answer has just taken so long."""
        self.mean_s, self.deviation_s = seconds, seconds * USUAL_DEVIATION

    @property
    def patience_s(self) -> float:
        """An answer that takes longer than this is not coming in time."""
        return self.mean_s + PATIENCE * self.deviation_s


@dataclass(frozen=True, slots=True)
class Promise:
    """What a step should bring, and take: of one session or of all; or what an answer adds to that.

    Attributes:
        tokens: that it commits, the target's own included.
        seconds: with the candidates that it verifies for them.
    """

    tokens: float
    seconds: float


class Gain:
    """Running means of what an answer adds to the promise of its session's next step, by what was promised before.

    What it brings depends on that most: a head is worth much where a text has nothing to be copied from, and next to
    nothing where it has. It is not what was accepted of the drafter: of that, a part was there before the answer, from
    itself (an earlier tree, one drafted ahead) or from others, and needs no waiting for.
    """

    def __init__(self, tokens: float = INITIAL_GAIN) -> None:
        self._added = [Promise(tokens, 0.0)] * (len(PROMISED) + 1)
        self._observed = [0.0] * len(self._added)

    def at(self, promised: float) -> Promise:
        """What the next answer should add, where so many tokens are promised already."""
        return self._added[bisect(PROMISED, promised)]

    def observe(self, before: Promise, after: Promise, weight: float = 1.0) -> None:
        """An answer changed a session's promise; weight: in answers."""
        where = bisect(PROMISED, before.tokens)
        self._observed[where] += weight
        share = min(1.0, weight * max(GAIN_ADAPTATION, 1.0 / (1.0 + self._observed[where])))
        was = self._added[where]
        self._added[where] = Promise(
            was.tokens + share * (after.tokens - before.tokens - was.tokens),
            was.seconds + share * (after.seconds - before.seconds - was.seconds),
        )

    def waited_in_vain(self, weight: float) -> None:
        """Nothing came of a wait; weight: in answers."""
        share = GAIN_ADAPTATION * weight
        self._added = [Promise(was.tokens * (1.0 - share), was.seconds) for was in self._added]


@dataclass(frozen=True, slots=True)
class Pending:
    """A draft under way: it should be here in `arrives_in_s` and then brings its `gain`, or at least `hoped` tokens."""

    arrives_in_s: float
    gain: Gain
    hoped: float = 0.0

    def added(self, promised: float) -> Promise:
        """Where so many tokens are promised to its session already."""
        added = self.gain.at(promised)
        return added if added.tokens >= self.hoped else Promise(self.hoped, 0.0)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A session: tokens that it is promised if the step starts now, and the drafts that are under way to it."""

    tokens: float
    pending: Sequence[Pending]


def worthwhile_wait(sessions: Sequence[Waiting], step_s: float) -> float:
    """Seconds to wait before the step, 0 for none.

    Args:
        sessions: that have a part in the step.
        step_s: what the step takes if it starts now.
    """
    promised = [session.tokens for session in sessions]
    tokens = sum(promised)
    best_rate = tokens / step_s
    best_wait_s = 0.0
    drafts = [(draft, place) for place, session in enumerate(sessions) for draft in session.pending]
    for draft, place in sorted(drafts, key=lambda pair: pair[0].arrives_in_s):
        if draft.arrives_in_s > MAX_WAIT_S:
            break  # to wait and then start without it would be the worst of all
        added = draft.added(promised[place])
        promised[place] += added.tokens
        tokens += added.tokens
        step_s += added.seconds
        rate = tokens / (step_s + draft.arrives_in_s)
        if rate > best_rate:
            best_rate, best_wait_s = rate, draft.arrives_in_s
    return best_wait_s
