"""What steps verified, in the shape in which a stream's chunks tell it."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.router.http.told import Told, ToldDrafter, ToldNode, ToldOutcome, ToldStep, ToldToken
from paceline.v1 import generation_pb2
from paceline.wire.errors import PacelineError, Reason

PROBABILITY_DIGITS = 4
SECONDS_DIGITS = 6


def told_tokens(tokens: generation_pb2.Tokens, step: generation_pb2.Step | None) -> Told:
    """Of a chunk, with the step that brought it. Raises INTERNAL for what no verifier should say."""
    if len(tokens.sources) != len(tokens.ids) or len(tokens.pieces) not in (0, len(tokens.ids)):
        raise PacelineError(
            Reason.INTERNAL,
            f"{len(tokens.ids)} tokens came with {len(tokens.sources)} sources and {len(tokens.pieces)} pieces",
        )
    pieces: list[list[int] | None] = [list(piece) for piece in tokens.pieces] or [None] * len(tokens.ids)
    return Told(
        tokens=[
            ToldToken(id=token, bytes=piece, source=_source(source, tokens.source_names) if source else None)
            for token, piece, source in zip(tokens.ids, pieces, tokens.sources, strict=True)
        ],
        step=None if step is None else _step(step),
    )


def told_outcome(total: generation_pb2.Outcome) -> Told:
    """Of a choice, at its end."""
    return Told(
        outcome=ToldOutcome(
            tokens=total.tokens,
            steps=total.steps,
            nodes=total.nodes,
            verify_s=_seconds(total.verify_s),
            plain_s=_seconds(total.plain_s),
            wait_s=_seconds(total.wait_s),
            prefill_s=_seconds(total.prefill_s),
            elapsed_s=_seconds(total.elapsed_s),
            prompt_tokens=total.prompt_tokens,
            drafters=[
                ToldDrafter(
                    drafter=one.drafter_name,
                    strategy=one.strategy,
                    proposed=one.proposed,
                    accepted=one.accepted,
                    stale=one.stale,
                    refused=one.refused,
                )
                for one in total.drafters
            ],
        )
    )


def _step(step: generation_pb2.Step) -> ToldStep:
    return ToldStep(
        nodes=[_node(index, node, step.source_names) for index, node in enumerate(step.nodes)],
        hidden_nodes=step.hidden_nodes,
        step_s=_seconds(step.step_s),
        wait_s=_seconds(step.wait_s),
        rows=step.rows,
        plain_step_s=_seconds(step.plain_step_s),
    )


def _node(index: int, node: generation_pb2.StepNode, names: Sequence[str]) -> ToldNode:
    if node.parent > index:
        raise PacelineError(Reason.INTERNAL, f"node {index} of a step has the parent {node.parent - 1}, after it")
    return ToldNode(
        id=node.id,
        bytes=list(node.piece),
        parent=node.parent - 1,
        sources=[_source(source, names) for source in node.sources],
        probability=round(node.probability, PROBABILITY_DIGITS),
        accepted=node.accepted,
    )


def _source(source: int, names: Sequence[str]) -> str:
    if not 0 < source <= len(names):
        raise PacelineError(Reason.INTERNAL, f"a token has the source {source}, and {len(names)} have names")
    return names[source - 1]


def _seconds(seconds: float) -> float:
    return round(seconds, SECONDS_DIGITS)
