"""What a drafter that wasn't engaged would have brought: its drafts, played against text that is known.

The replay stands for a verifier that has this drafter alone. It plans, waits and accepts by the same rules, but its
steps take what the cost model says and their outcome is read off the text. So it needs from the drafter what a session
needs, an answer to each state, and it has a clock of its own: answers come as long after a commit as they really took.

Two things it can't see. What a drafter sends ahead, while a step runs, never comes, since the replay goes on at once.
And an answer that takes longer than a step is followed by the next one only from the next step's end.
Pure; times are arguments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from paceline.verifier.answers import MEASURED_EVERY, MIN_DUE_S
from paceline.verifier.calibration import Calibration
from paceline.verifier.planning import grant
from paceline.verifier.trie import MAX_TRIE_NODES, Candidate, CandidateTrie, Source
from paceline.verifier.waiting import MAX_WAIT_S, Gain, Latency, Pending, Promise, Waiting, worthwhile_wait
from paceline.wire.tree import ROOT, DraftTree


@dataclass(frozen=True, slots=True)
class Costs:
    """What steps take and may hold, for a session among others that are all like it.

    Attributes:
        seconds: of a step by its rows, until the next can start; what planning and waiting go by.
        forward_s: of a forward pass by its rows.
        num_sessions: in a step.
        max_nodes: candidates of one session in a step.
        least_value: see `paceline.verifier.step_times.StepTimes`.
    """

    seconds: Callable[[int], float]
    forward_s: Callable[[int], float]
    num_sessions: int
    max_nodes: int
    least_value: float

    def step_s(self, num_nodes: int) -> float:
        """Of a step in which every session has so many candidates."""
        return self.seconds(self.num_sessions * (1 + num_nodes))

    def pass_s(self, num_nodes: int) -> float:
        """Of its forward pass."""
        return self.forward_s(self.num_sessions * (1 + num_nodes))


@dataclass(slots=True)
class Habit:
    """How long a part of a drafter's answers takes, and what it brings."""

    latency: Latency = field(default_factory=Latency)
    gain: Gain = field(default_factory=Gain)


@dataclass(slots=True)
class Habits:
    """What replays have shown of one drafter; see `paceline.verifier.answers.Answers` for the two parts."""

    first: Habit = field(default_factory=Habit)
    rest: Habit = field(default_factory=Habit)
    several: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """A tree of an answer, and how long after the commit it came."""

    after_s: float
    tree: DraftTree


@dataclass(slots=True)
class Figures:
    """What became of a stretch of text; see `paceline.v1.ShadowScore`."""

    tokens: int = 0
    steps: int = 0
    nodes: int = 0
    verify_s: float = 0.0
    plain_s: float = 0.0
    wait_s: float = 0.0
    draft_s: float = 0.0


@dataclass(frozen=True, slots=True)
class _Arrival:
    """A part that is under way: when it comes, by the replay's clock, and what it makes of its own state's promise."""

    at_s: float
    after_s: float
    trees: tuple[DraftTree, ...]
    habit: Habit
    before: Promise
    after: Promise
    timed: bool


def walk(candidates: Sequence[Candidate], text: Sequence[int]) -> list[int]:
    """Indices of the candidates that are accepted where this text follows, along the path.

    >>> from paceline.verifier.trie import Node
    >>> walk([Candidate(Node(7, None), ROOT, 1.0), Candidate(Node(8, None), 0, 1.0)], [7, 8, 9])
    [0, 1]
    """
    places = {(candidate.parent, candidate.node.token): index for index, candidate in enumerate(candidates)}
    accepted: list[int] = []
    at = ROOT
    for token in text:
        found = places.get((at, token))
        if found is None:
            break
        accepted.append(found)
        at = found
    return accepted


class Replay:
    """One drafter on one stretch of text.

    Args:
        text: that followed, from the stretch's beginning; `heard` adds what came later.
        length: of the stretch; as in a segment, the step that reaches its end counts whole.
        room: tokens that the answer could have had from there on.
        sources: of the drafter's strategies.
        calibration: of confidences; what the text says about candidates is as true as what a step says, so it learns.
        habits: of the drafter; they go on from replay to replay.
        costs: of steps.
    """

    def __init__(
        self,
        text: Sequence[int],
        length: int,
        room: int,
        sources: Sequence[Source],
        calibration: Calibration,
        habits: Habits,
        costs: Costs,
    ) -> None:
        self.figures = Figures()
        self._text = list(text)
        self._length = length
        self._room = room
        self._sources = sources
        self._calibration = calibration
        self._habits = habits
        self._costs = costs
        self._trie = CandidateTrie(MAX_TRIE_NODES, MAX_TRIE_NODES // 4)
        self._clock_s = 0.0
        self._told = 0  # tokens of the text that the present answer knows
        self._told_s = 0.0
        self._arrivals: deque[_Arrival] = deque()
        self._opening = True

    @property
    def at(self) -> int:
        """Tokens of the text that are committed: the state that the drafter is to be told of next."""
        return self.figures.tokens

    @property
    def done(self) -> bool:
        return self.at >= self._length

    def heard(self, text: Sequence[int]) -> None:
        """More of the text is known: all of it so far."""
        self._text.extend(text[len(self._text) :])

    def answer(self, parts: Sequence[Part]) -> None:
        """The drafter's answer to the present state. Steps are made until it can be told of another.

        The first answer is timed by habit: for that the drafter had to read the context, which one that is engaged does
        while the verifier reads it.
        """
        if self.done:
            return
        self._told, self._told_s = self.at, self._clock_s
        self._send(parts)
        while not self.done:
            self._receive()
            if not self._arrivals and self.at > self._told:
                return
            self._step(self._wait())
            if not self._arrivals:
                return

    def silent(self) -> None:
        """No answer will come any more: the rest of the text by what is there."""
        while not self.done:
            self._step(self._planned(self._trie))

    # Answers

    def _send(self, parts: Sequence[Part]) -> None:
        """Puts an answer under way: its first tree, and the others together with the last."""
        timed, self._opening = not self._opening, False
        if timed and parts:
            self.figures.draft_s += parts[-1].after_s
        habits = self._habits
        habits.several |= len(parts) > 1
        alone = CandidateTrie(MAX_TRIE_NODES, MAX_TRIE_NODES // 4)
        before = self._promise(self._planned(self._trie))
        for habit, some in ((habits.first, parts[:1]), (habits.rest, parts[1:])):
            if not some:
                continue
            trees = tuple(part.tree for part in some)
            for tree in trees:
                alone.graft(tree, self._sources)
            after = max(before, self._promise(self._planned(alone)), key=lambda promise: promise.tokens)
            after_s = some[-1].after_s if timed else habit.latency.mean_s
            self._arrivals.append(_Arrival(self._told_s + after_s, after_s, trees, habit, before, after, timed))
            before = after

    def _receive(self) -> None:
        """Parts whose time has come."""
        while self._arrivals and self._arrivals[0].at_s <= self._clock_s:
            arrival = self._arrivals.popleft()
            for tree in arrival.trees:
                self._trie.graft(tree, self._sources, self._text[self._told : self.at])
            arrival.habit.gain.observe(arrival.before, arrival.after)
            if arrival.timed:
                arrival.habit.latency.observe(arrival.after_s)

    def _wait(self) -> list[Candidate]:
        """Lets parts arrive while the verifier would wait; returns what it verifies then."""
        left_s = MAX_WAIT_S
        while True:
            planned = self._planned(self._trie)
            if self.at != self._told or not self._arrivals:
                return planned
            promise = self._promise(planned)
            wait_s = min(left_s, worthwhile_wait([Waiting(promise.tokens, self._pending())], promise.seconds))
            if wait_s <= 0.0:
                return planned
            due_s = self._arrivals[0].at_s - self._clock_s
            waited_s = min(wait_s, due_s)
            left_s -= waited_s
            self._clock_s = self._arrivals[0].at_s if due_s <= wait_s else self._clock_s + waited_s
            self.figures.wait_s += waited_s
            if due_s > wait_s:
                self._arrivals[0].habit.gain.waited_in_vain(1.0 / MEASURED_EVERY)
                return planned
            self._receive()

    def _pending(self) -> list[Pending]:
        elapsed_s = self._clock_s - self._told_s
        owed = [arrival.habit for arrival in self._arrivals]
        if self._habits.several and self._arrivals and self._arrivals[-1].habit is self._habits.first:
            owed.append(self._habits.rest)  # this time there is none, which nobody could know
        return [
            Pending(max(MIN_DUE_S, habit.latency.patience_s - elapsed_s), habit.gain)
            for habit in owed
            if elapsed_s <= habit.latency.patience_s
        ]

    # Steps

    def _planned(self, trie: CandidateTrie) -> list[Candidate]:
        """What a step verifies of a trie's candidates."""
        costs, room = self._costs, self._room - self.at - 1
        if room <= 0:
            return []
        probability = self._calibration.probability
        candidates = trie.plan(probability, costs.max_nodes, room, costs.least_value)
        granted = grant({0: candidates}, 1, lambda rows: costs.step_s(rows - 1), costs.max_nodes)
        return candidates[: granted[0]]

    def _promise(self, planned: Sequence[Candidate]) -> Promise:
        return Promise(1.0 + sum(candidate.value for candidate in planned), self._costs.step_s(len(planned)))

    def _step(self, planned: Sequence[Candidate]) -> None:
        costs, figures, text = self._costs, self.figures, self._text[self.at :]
        accepted = walk(planned, text)
        self._learn(planned, accepted, len(text))
        taken = min(len(accepted) + 1, len(text))
        seconds = costs.pass_s(len(planned))
        self._clock_s += seconds
        self._trie.advance(text[:taken])
        figures.tokens += taken
        figures.steps += 1
        figures.nodes += len(planned)
        figures.verify_s += seconds
        figures.plain_s += costs.pass_s(0) * taken

    def _learn(self, planned: Sequence[Candidate], accepted: Sequence[int], known: int) -> None:
        """Candidates whose parent came true were right or wrong; those behind the end of what is known are neither."""
        judged = {ROOT, *accepted[: max(0, known - 1)]} if known else set()
        right = set(accepted)
        for index, candidate in enumerate(planned):
            if candidate.parent in judged:
                self._calibration.observe(candidate.node, index in right)
