"""What a drafter owes: which of its answers are under way, how long they take, and what they bring.

A commit is answered by one tree or by several, the last of which is final. The first and what follows until the final
one are measured apart, since a step may do well to wait for what is quick and start without the rest. Pure but for the
clock, which is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from paceline.verifier.waiting import Gain, Latency, Pending

REMEMBERED_STATES = 16
MEASURED_EVERY = 4  # answers: what one brings is seen from two plans, and they cost the event loop 0.2 ms
MIN_DUE_S = 0.0005


@dataclass(slots=True)
class Stage:
    """A part of a drafter's answers: how long after the commit it is there, and what it brings."""

    latency: Latency = field(default_factory=Latency)
    gain: Gain = field(default_factory=Gain)
    num_answers: int = 0

    @property
    def measured(self) -> bool:
        """Whether the gain of the latest answer is to be looked at."""
        return self.num_answers % MEASURED_EVERY == 1


@dataclass(slots=True)
class _State:
    """A state of a session that the drafter was told of and has not answered completely."""

    told_s: float
    begun: bool = False  # the first tree came, and it wasn't final


class Answers:
    """Those of one drafter, to all its sessions.

    Attributes:
        first: from the commit to the first tree; of drafters that send one tree only, all there is.
        rest: from the commit to the final tree, where the first was not final.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.first = Stage()
        self.rest = Stage()
        self._clock = clock
        self._sends_several = False
        self._states: dict[int, OrderedDict[int, _State]] = {}  # by session, by length
        self._complete: dict[int, int] = {}  # by session: length of the state that needs no more answer

    def told(self, session_id: int, length: int) -> None:
        """The drafter was sent a session's state."""
        states = self._states.setdefault(session_id, OrderedDict())
        states[length] = _State(self._clock())
        while len(states) > REMEMBERED_STATES:
            states.popitem(last=False)

    def forget(self, session_id: int) -> None:
        self._states.pop(session_id, None)
        self._complete.pop(session_id, None)

    def came(self, session_id: int, length: int, final: bool) -> Stage | None:
        """A tree came for that state; returns the stage that it ended, if it did.

        None for one between the first and the final, and for one after the final: nobody waited for them.
        """
        if final:
            self._complete[session_id] = max(length, self._complete.get(session_id, 0))
        state = self._state(session_id, length)
        if state is None or (state.begun and not final):
            return None
        stage = self.rest if state.begun else self.first
        stage.latency.observe(self._clock() - state.told_s)
        stage.num_answers += 1
        if final:
            del self._states[session_id][length]
        else:
            state.begun = self._sends_several = True
        return stage

    def pending(self, session_id: int, length: int) -> list[Pending]:
        """What should still come for a session's state, and when."""
        if self._complete.get(session_id) == length:
            return []
        state = self._state(session_id, length)
        if state is None:  # not even sent: the stream's writer runs as soon as the loop is free
            return [Pending(stage.latency.mean_s, stage.gain.tokens) for stage in self._stages(None)]
        elapsed_s = self._clock() - state.told_s
        return [
            Pending(max(MIN_DUE_S, stage.latency.patience_s - elapsed_s), stage.gain.tokens)
            for stage in self._stages(state)
            if elapsed_s <= stage.latency.patience_s
        ]

    def overdue(self, session_id: int, length: int) -> None:
        """A step stopped waiting for this state's answer: the drafter is slower than was thought, and waiting for it
        brought nothing."""
        state = self._state(session_id, length)
        if state is None:
            return
        elapsed_s = self._clock() - state.told_s
        for stage in self._stages(state):
            if elapsed_s >= stage.latency.mean_s:  # else it was something else that was waited for
                stage.latency.observe(2.0 * elapsed_s)
                stage.gain.observe(0.0, 1.0 / MEASURED_EVERY)

    def _state(self, session_id: int, length: int) -> _State | None:
        states = self._states.get(session_id)
        return states.get(length) if states is not None else None

    def _stages(self, state: _State | None) -> list[Stage]:
        """Those that are still to come."""
        if state is not None and state.begun:
            return [self.rest]
        return [self.first, self.rest] if self._sends_several else [self.first]
