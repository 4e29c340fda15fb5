"""One generation: what is committed, what may come next, and what it cost.

The only large mutable thing in the verifier. It belongs to the event loop's thread; the model's thread sees the values
of a step's plan and the session's slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from paceline.verifier.grammar.constraint import Constraint
from paceline.verifier.model.batch import SessionPlan, SessionResult
from paceline.verifier.model.blocks import KVSlot
from paceline.verifier.model.log_probs import TokenLogProbs
from paceline.verifier.request import Request, Speculation
from paceline.verifier.sampling import Sampler
from paceline.verifier.steps import MAX_UNREAD_EVENTS, StepEvent, StepFigures, step_event
from paceline.verifier.text import TextStream
from paceline.verifier.trie import Candidate, CandidateTrie, Source
from paceline.wire import digest
from paceline.wire.errors import PacelineError


class Finish(Enum):
    STOP = "stop"
    LENGTH = "length"


@dataclass(slots=True)
class Credit:
    """Per source: candidates verified, those that became output, trees too late, messages refused."""

    proposed: int = 0
    accepted: int = 0
    stale: int = 0
    refused: int = 0


@dataclass(slots=True)
class Outcome:
    """Running totals of a stretch of generation; times in seconds. See `paceline.v1.Outcome`."""

    tokens: int = 0
    steps: int = 0
    nodes: int = 0
    verify_s: float = 0.0
    plain_s: float = 0.0
    wait_s: float = 0.0
    prefill_s: float = 0.0
    elapsed_s: float = 0.0
    credits: dict[Source, Credit] = field(default_factory=dict)

    def credit(self, source: Source) -> Credit:
        return self.credits.setdefault(source, Credit())

    def since(self, earlier: Outcome) -> Outcome:
        """This minus an earlier state of the same totals."""
        credits: dict[Source, Credit] = {}
        for source, now in self.credits.items():
            then = earlier.credits.get(source, Credit())
            credits[source] = Credit(
                now.proposed - then.proposed,
                now.accepted - then.accepted,
                now.stale - then.stale,
                now.refused - then.refused,
            )
        return Outcome(
            self.tokens - earlier.tokens,
            self.steps - earlier.steps,
            self.nodes - earlier.nodes,
            self.verify_s - earlier.verify_s,
            self.plain_s - earlier.plain_s,
            self.wait_s - earlier.wait_s,
            self.prefill_s - earlier.prefill_s,
            self.elapsed_s - earlier.elapsed_s,
            credits,
        )

    def copy(self) -> Outcome:
        return replace(self, credits={source: replace(credit) for source, credit in self.credits.items()})


@dataclass(frozen=True, slots=True)
class TokensEvent:
    """Tokens that committed; sources[i] is who proposed ids[i], None for the target itself; `log_probs` of each, if
    they are asked for; `spelled`: their bytes are asked for."""

    ids: tuple[int, ...]
    text: str
    sources: tuple[Source | None, ...]
    log_probs: tuple[TokenLogProbs, ...] = ()
    spelled: bool = False


@dataclass(frozen=True, slots=True)
class SegmentEvent:
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class FinishedEvent:
    reason: Finish
    stop_string: str
    total: Outcome


@dataclass(frozen=True, slots=True)
class FailedEvent:
    error: PacelineError


Event = StepEvent | TokensEvent | SegmentEvent | FinishedEvent | FailedEvent


class Session:
    """A request that is being answered.

    Args:
        session_id: unique within this verifier.
        request: checked.
        text: stream of the answer's text, nothing pushed yet.
        eos_token_ids: tokens that end an answer.
        max_trie_nodes: bound on candidates kept.
        constraint: what the answer must look like, after what is committed of it; candidates that it forbids are cut as
            they arrive.
    """

    def __init__(
        self,
        session_id: int,
        request: Request,
        text: TextStream,
        eos_token_ids: frozenset[int],
        max_trie_nodes: int,
        constraint: Constraint | None = None,
    ) -> None:
        self.session_id = session_id
        self.request = request
        self.speculation: Speculation = request.speculation
        self.tokens: list[int] = list(request.prompt)
        self.trie = CandidateTrie(
            max_trie_nodes, max_trie_nodes // 4, None if constraint is None else constraint.admits
        )
        self.sampler = Sampler(request.sampling)
        self.slot: KVSlot | None = None
        self.finish: Finish | None = None
        self.cancelled = False
        self.reading = True  # the prompt, or after a preemption all there is so far
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._held_events: list[Event] = []
        self.total = Outcome()
        self.arrived_s = 0.0  # monotonic; the engine's clock
        self.admitted_s = 0.0
        self._text = text
        self._constraint = constraint
        self._eos = frozenset() if request.ignore_eos else eos_token_ids
        self._segment_start = Outcome()
        # digests[i] is the digest of the first len(prompt) + i tokens.
        self._digests = [digest.digest_of(request.prompt)]
        for token in request.committed:
            self._append(token)
            if self.finish is not None:
                break

    @property
    def num_generated(self) -> int:
        return len(self.tokens) - len(self.request.prompt)

    @property
    def length(self) -> int:
        return len(self.tokens)

    @property
    def decoding(self) -> bool:
        """All of its text but the last token is in the cache."""
        return self.slot is not None and self.slot.length == self.length - 1

    @property
    def digest(self) -> int:
        return self._digests[-1]

    def digest_at(self, length: int) -> int | None:
        """Digest of the first `length` tokens, None if that lies within the prompt or beyond what is committed."""
        index = length - len(self.request.prompt)
        return self._digests[index] if 0 <= index < len(self._digests) else None

    def plan(
        self,
        candidates: Sequence[Candidate],
        max_chain: int,
        top_k: int,
        log_probs: bool,
        feature_window: int = 0,
    ) -> SessionPlan:
        """This session's rows for a step: at most `max_chain` of the tokens that the cache lacks, then candidates.

        Features are wanted if the rows reach into the last `feature_window` of the tokens.
        """
        assert self.slot is not None
        chain = tuple(self.tokens[self.slot.length : self.slot.length + max_chain])
        end = self.slot.length + len(chain)
        completes = end == len(self.tokens)
        kept = candidates if completes else ()
        tokens = tuple(candidate.node.token for candidate in kept)
        parents = tuple(candidate.parent for candidate in kept)
        return SessionPlan(
            slot=self.slot.snapshot(),
            chain=chain,
            completes=completes,
            tree_tokens=tokens,
            tree_parents=parents,
            sampler=self.sampler,
            top_k=top_k if completes else 0,
            want_log_probs=log_probs,
            want_features=len(self.tokens) - end < feature_window,
            log_probs=self.request.log_probs,
            masks=self._constraint.masks(tokens, parents) if self._constraint is not None and completes else None,
        )

    def commit(
        self, result: SessionResult, candidates: Sequence[Candidate], step: StepFigures | None = None
    ) -> tuple[int, ...]:
        """Takes a step's tokens until the answer ends; returns those that were taken. `settle` follows.

        Its events are held until `release_events`. `step` is told of if steps are asked for.
        """
        taken: list[int] = []
        sources: list[Source | None] = []
        texts: list[str] = []
        for index, token in enumerate(result.tokens):
            node = candidates[result.accepted[index]].node if index < len(result.accepted) else None
            proposers = list(node.proposals) if node is not None else []
            for source in proposers:
                self.total.credit(source).accepted += 1
            sources.append(proposers[0] if proposers else None)
            taken.append(token)
            texts.append(self._append(token))
            if self.finish is not None:
                break
        self.total.tokens += len(taken)
        self.trie.advance(taken)
        if self._constraint is not None:
            self._constraint.take(taken)
        told = self.request.steps
        if told is not None and step is not None:
            most = told if self.events.qsize() <= MAX_UNREAD_EVENTS else 0
            self._held_events.append(step_event(candidates, result.accepted[: len(taken)], most, step))
        log_probs = result.log_probs[: len(taken)]
        event = TokensEvent(tuple(taken), "".join(texts), tuple(sources), log_probs, told is not None)
        self._held_events.append(event)
        return tuple(taken)

    def _append(self, token: int) -> str:
        """One more token of the answer; returns the text it releases, and sets `finish` if it is the last."""
        self.tokens.append(token)
        self._digests.append(digest.extend(self._digests[-1], (token,)))
        text = self._text.push(token)
        if token in self._eos or self._text.stopped_by is not None:
            self.finish = Finish.STOP
        elif self.num_generated >= self.request.max_tokens:
            self.finish = Finish.LENGTH
        if self.finish is not None:
            text += self._text.finish()
            if self._text.stopped_by is not None:  # a stop string came to light in what was held back
                self.finish = Finish.STOP
        return text

    def settle(self) -> bool:
        """After `commit`, when `total` has what the step cost: ends a segment, or the answer, if it is time. Returns
        whether a segment ended."""
        every = self.request.segment_tokens
        ended = self.finish is not None
        segment_ended = every > 0 and (ended or self.total.tokens - self._segment_start.tokens >= every)
        if segment_ended:
            self._held_events.append(SegmentEvent(self.total.since(self._segment_start)))
            self._segment_start = self.total.copy()
        if ended:
            self._held_events.append(self._finished())
        return segment_ended

    def release_events(self) -> None:
        """What was held may be read."""
        for event in self._held_events:
            self.events.put_nowait(event)
        self._held_events.clear()

    def emit_finished(self) -> None:
        """Ends the event stream of a session that was finished before it began."""
        self.events.put_nowait(self._finished())

    def _finished(self) -> FinishedEvent:
        assert self.finish is not None
        return FinishedEvent(self.finish, self._text.stopped_by or "", self.total.copy())

    def fail(self, error: PacelineError) -> None:
        """Ends the event stream with an error."""
        self.cancelled = True
        self.release_events()
        self.events.put_nowait(FailedEvent(error))
