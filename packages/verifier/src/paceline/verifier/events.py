"""What a session tells, as messages."""

from __future__ import annotations

from collections.abc import Callable

from paceline.v1 import generation_pb2
from paceline.verifier import session as domain
from paceline.verifier.shadow_book import ShadowScore
from paceline.verifier.steps import StepEvent, VerifiedNode
from paceline.verifier.trie import Source

_FINISH = {
    domain.Finish.STOP: generation_pb2.FINISH_REASON_STOP,
    domain.Finish.LENGTH: generation_pb2.FINISH_REASON_LENGTH,
}


def event_to_proto(
    event: domain.Event, names: dict[str, str], prompt_tokens: int, piece: Callable[[int], bytes]
) -> generation_pb2.GenerateEvent:
    """names: drafter names by id; piece: a token's bytes, asked for with log-probabilities and steps only."""
    match event:
        case StepEvent():
            return generation_pb2.GenerateEvent(step=_step_to_proto(event, names, piece))
        case domain.TokensEvent():
            return generation_pb2.GenerateEvent(tokens=_tokens_to_proto(event, names, piece))
        case domain.SegmentEvent():
            outcome = outcome_to_proto(event.outcome, names, prompt_tokens)
            return generation_pb2.GenerateEvent(outcome=outcome)
        case domain.FinishedEvent():
            finished = generation_pb2.Finished(
                reason=_FINISH[event.reason],
                stop_string=event.stop_string,
                total=outcome_to_proto(event.total, names, prompt_tokens),
            )
            return generation_pb2.GenerateEvent(finished=finished)
        case domain.FailedEvent():
            raise event.error


def _tokens_to_proto(
    event: domain.TokensEvent, names: dict[str, str], piece: Callable[[int], bytes]
) -> generation_pb2.Tokens:
    labels = _Labels(names)
    sources = [0 if source is None else labels.number(source) for source in event.sources]
    log_probs = [
        generation_pb2.TokenLogProbs(
            token=_log_prob(token, told.log_prob, piece),
            top=[_log_prob(other, log_prob, piece) for other, log_prob in told.top],
        )
        for token, told in zip(event.ids, event.log_probs, strict=bool(event.log_probs))
    ]
    return generation_pb2.Tokens(
        ids=event.ids,
        text=event.text,
        sources=sources,
        source_names=labels.told,
        log_probs=log_probs,
        pieces=[piece(token) for token in event.ids] if event.spelled else (),
    )


def _step_to_proto(event: StepEvent, names: dict[str, str], piece: Callable[[int], bytes]) -> generation_pb2.Step:
    labels, figures = _Labels(names), event.figures

    def told(node: VerifiedNode) -> generation_pb2.StepNode:
        return generation_pb2.StepNode(
            id=node.token,
            piece=piece(node.token),
            parent=node.parent + 1,
            sources=dict.fromkeys(map(labels.number, node.sources)),
            probability=node.probability,
            accepted=node.accepted,
        )

    nodes = [told(node) for node in event.nodes]
    return generation_pb2.Step(
        nodes=nodes,
        source_names=labels.told,
        hidden_nodes=event.num_hidden,
        step_s=figures.step_s,
        wait_s=figures.wait_s,
        rows=figures.rows,
        plain_step_s=figures.plain_step_s,
    )


class _Labels:
    """Names of sources, "drafter/strategy", each told once in an event; `names` are drafters' by id."""

    def __init__(self, names: dict[str, str]) -> None:
        self.told: list[str] = []
        self._names = names

    def number(self, source: Source) -> int:
        """Its place among those told, from 1."""
        label = f"{self._names.get(source.drafter_id, source.drafter_id)}/{source.strategy}"
        if label not in self.told:
            self.told.append(label)
        return self.told.index(label) + 1


def _log_prob(token: int, log_prob: float, piece: Callable[[int], bytes]) -> generation_pb2.TokenLogProb:
    return generation_pb2.TokenLogProb(id=token, piece=piece(token), log_prob=log_prob)


def outcome_to_proto(outcome: domain.Outcome, names: dict[str, str], prompt_tokens: int) -> generation_pb2.Outcome:
    return generation_pb2.Outcome(
        tokens=outcome.tokens,
        steps=outcome.steps,
        nodes=outcome.nodes,
        verify_s=outcome.verify_s,
        plain_s=outcome.plain_s,
        wait_s=outcome.wait_s,
        prefill_s=outcome.prefill_s,
        elapsed_s=outcome.elapsed_s,
        prompt_tokens=prompt_tokens,
        drafters=[
            generation_pb2.DrafterCredit(
                drafter_id=source.drafter_id,
                strategy=source.strategy,
                drafter_name=names.get(source.drafter_id, source.drafter_id),
                proposed=credit.proposed,
                accepted=credit.accepted,
                stale=credit.stale,
                refused=credit.refused,
            )
            for source, credit in outcome.credits.items()
        ],
    )


def score_to_proto(score: ShadowScore) -> generation_pb2.ShadowScore:
    figures = score.figures
    return generation_pb2.ShadowScore(
        drafter_id=score.drafter_id,
        drafter_name=score.name,
        tokens=figures.tokens,
        steps=figures.steps,
        nodes=figures.nodes,
        verify_s=figures.verify_s,
        plain_s=figures.plain_s,
        wait_s=figures.wait_s,
        draft_s=figures.draft_s,
    )
