"""What a drafter owes: which of its answers are under way, how long they take, and what they bring.

A commit is answered by one tree or by several, the last of which is final. The first and what follows until the final
one are measured apart, since a step may do well to wait for what is quick and start without the rest.

What an answer brings is seen when it comes. One that never comes in time would stay unknown, however good it is; and
how long it takes is known only of answers that are waited for, since a drafter that shares processors with the model is
slow while a step runs. So now and then, ever less often, it is expected to bring much, and is waited for if that would
pay. Pure
but for the clock, which is an argument.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from paceline.verifier.waiting import Gain, Latency, Pending, Promise

REMEMBERED_STATES = 128  # of a session: over a slow link so many steps can pass before an answer comes
MEASURED_EVERY = 4  # answers: what one brings is seen from two plans, and they cost the event loop 0.2 ms
MIN_DUE_S = 0.0005
FIRST_TRIAL = 4  # states that were passed over; then twice as many each time, until one is answered by itself
TRIAL_EVERY = 256
HOPED_GAIN = 8.0  # tokens
TRIAL_WEIGHT = 4.0  # of a gain that is seen in a trial: what was believed before is old


@dataclass(slots=True)
class Stage:
    """A part of a drafter's answers: how long after the commit it is there, and what it brings."""

    latency: Latency = field(default_factory=Latency)
    gain: Gain = field(default_factory=Gain)
    num_answers: int = 0
    _passed_over: int = 0  # states since the last answer that came in time, or trial that got none
    _trial_every: int = FIRST_TRIAL
    _weight: float = 1.0  # of the latest answer's gain; 0: it isn't looked at

    @property
    def measured(self) -> bool:
        """Whether the gain of the latest answer is to be looked at."""
        return self._weight > 0.0

    def pending(self, arrives_in_s: float) -> Pending:
        """Its next answer; it is hoped to bring much if it is time to see what it does bring."""
        return Pending(arrives_in_s, self.gain, HOPED_GAIN if self._on_trial else 0.0)

    @property
    def _on_trial(self) -> bool:
        return self._passed_over >= self._trial_every

    def came(self, after_s: float, late: bool = False) -> None:
        """It is there; late: a step had begun without it. `observe` follows if `measured`."""
        self.num_answers += 1
        self._weight = float(self.num_answers % MEASURED_EVERY == 1)
        if late:
            self.latency.observe(after_s)
        elif self._on_trial:
            # Answers before it may have been slow because nobody waited: a drafter that shares processors with the
            # model drafts several times as fast while no step runs.
            self.latency.forget(after_s)
            self._weight = TRIAL_WEIGHT
            self._tried()
        else:  # one slow answer must not keep it from being waited for again
            self.latency.observe(after_s)
            self._passed_over, self._trial_every = 0, FIRST_TRIAL

    def observe(self, before: Promise, after: Promise) -> None:
        """What was promised to the next step before the latest answer and after it."""
        self.gain.observe(before, after, self._weight)

    def waited_in_vain(self, elapsed_s: float) -> None:
        """It takes longer than was thought, and the wait brought nothing."""
        self.latency.observe(2.0 * elapsed_s)
        self.gain.waited_in_vain(1.0 / MEASURED_EVERY)
        if self._on_trial:
            self._tried()

    def passed_over(self) -> None:
        """The session went on before it came."""
        self._passed_over += 1

    def _tried(self) -> None:
        self._passed_over = 0
        self._trial_every = min(2 * self._trial_every, TRIAL_EVERY)


@dataclass(slots=True)
class _State:
    """A state of a session that the drafter was told of and has not answered completely."""

    told_s: float
    begun: bool = False  # the first tree came, and it wasn't final
    passed_over: bool = False  # a step began without what is still to come


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

    def passed_over(self, session_id: int, length: int) -> None:
        """A step begins from that state, without what hasn't come."""
        state = self._state(session_id, length)
        if state is not None and not state.passed_over and self._complete.get(session_id) != length:
            state.passed_over = True
            for stage in self._stages(state):
                stage.passed_over()

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
        stage.came(self._clock() - state.told_s, late=state.passed_over)
        if final:
            states = self._states[session_id]
            for earlier in [each for each in states if each <= length]:  # those before it will not be answered any more
                del states[earlier]
        else:
            state.begun = self._sends_several = True
        return stage

    def pending(self, session_id: int, length: int) -> list[Pending]:
        """What should still come for a session's state, and when."""
        if self._complete.get(session_id) == length:
            return []
        state = self._state(session_id, length)
        if state is None:  # not even sent: the stream's writer runs as soon as the loop is free
            return [stage.pending(stage.latency.mean_s) for stage in self._stages(None)]
        elapsed_s = self._clock() - state.told_s
        return [
            stage.pending(max(MIN_DUE_S, stage.latency.patience_s - elapsed_s))
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
                stage.waited_in_vain(elapsed_s)

    def _state(self, session_id: int, length: int) -> _State | None:
        states = self._states.get(session_id)
        return states.get(length) if states is not None else None

    def _stages(self, state: _State | None) -> list[Stage]:
        """Those that are still to come."""
        if state is not None and state.begun:
            return [self.rest]
        return [self.first, self.rest] if self._sends_several else [self.first]
