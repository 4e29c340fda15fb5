"""What the next step may be expected to bring, by what is in the sessions' tries now."""

from __future__ import annotations

from collections.abc import Iterable

from paceline.verifier.calibration import Calibration
from paceline.verifier.pacing import Pacing
from paceline.verifier.planning import grant
from paceline.verifier.session import Session
from paceline.verifier.step_times import StepTimes
from paceline.verifier.trie import Candidate
from paceline.verifier.waiting import Promise


class Outlook:
    """Looks at sessions and changes nothing.

    Args:
        calibration: what confidences have come to.
        times: of steps.
        pacing: whether drafting rests.
        max_nodes: candidates of a session and step.
        max_step_nodes: over all sessions.
    """

    def __init__(
        self, calibration: Calibration, times: StepTimes, pacing: Pacing, max_nodes: int, max_step_nodes: int
    ) -> None:
        self.calibration = calibration
        self.times = times
        self.pacing = pacing
        self.max_nodes = max_nodes
        self.max_step_nodes = max_step_nodes

    def candidates(self, session: Session, max_nodes: int) -> list[Candidate]:
        """Of a session, best first."""
        limit = min(max_nodes, session.speculation.max_nodes or max_nodes)
        room = session.request.max_tokens - session.num_generated - 1
        if session.speculation.drafters == () or room <= 0 or not self.pacing.drafting:
            return []
        return session.trie.plan(self.calibration.probability, limit, room, self.times.least_value)

    def of_session(self, session: Session) -> Promise:
        """What its candidates promise the session's next step, if it were alone in it."""
        return self.of_step([session])[0]

    def of_step(self, sessions: Iterable[Session]) -> tuple[Promise, dict[int, float]]:
        """Of a step of these sessions, all decoding, with the best of their candidates; and the tokens of each."""
        offered = {session.session_id: self.candidates(session, self.max_nodes) for session in sessions}
        granted = grant(offered, len(offered), self.times.seconds, self.max_step_nodes)
        tokens = {
            session_id: 1.0 + sum(candidate.value for candidate in candidates[: granted[session_id]])
            for session_id, candidates in offered.items()
        }
        seconds = self.times.seconds(len(offered) + sum(granted.values()))
        return Promise(sum(tokens.values()), seconds), tokens
