"""What a session tells, as messages."""

from __future__ import annotations

from paceline.v1 import generation_pb2
from paceline.verifier import session as domain
from paceline.verifier.events import event_to_proto
from paceline.verifier.model.log_probs import TokenLogProbs
from paceline.verifier.steps import StepEvent, StepFigures, VerifiedNode
from paceline.verifier.trie import Source
from paceline.wire.tree import ROOT

PIECES = {7: b"a", 8: b"\xc3", 9: b""}


def no_piece(_token: int) -> bytes:
    raise AssertionError("nobody asked for pieces")


def test_sources_of_tokens_are_named_once_by_the_drafters_name():
    a, b = Source("id-1", "suffix"), Source("id-2", "lookup")
    event = domain.TokensEvent((1, 2, 3, 4), "text", (None, b, a, b))
    message = event_to_proto(event, {"id-1": "fast"}, 5, no_piece).tokens
    assert list(message.source_names) == ["id-2/lookup", "fast/suffix"]
    assert list(message.sources) == [0, 1, 2, 1]
    assert (list(message.ids), message.text) == ([1, 2, 3, 4], "text")


def test_log_probabilities_come_with_the_pieces_of_their_tokens():
    told = (TokenLogProbs(-0.5, ((7, -0.25), (8, -0.5))), TokenLogProbs(-3.0))
    event = domain.TokensEvent((8, 9), "text", (None, None), told)
    message = event_to_proto(event, {}, 5, PIECES.__getitem__).tokens
    assert [item.token.id for item in message.log_probs] == list(message.ids) == [8, 9]
    assert [(other.id, other.piece, other.log_prob) for other in message.log_probs[0].top] == [
        (7, b"a", -0.25),
        (8, b"\xc3", -0.5),
    ]
    assert (message.log_probs[0].token.piece, message.log_probs[0].token.log_prob) == (b"\xc3", -0.5)
    assert len(message.log_probs[1].top) == 0


def test_an_outcome_keeps_its_figures():
    total = domain.Outcome(5, 2, 9, 0.1, 0.2, 0.3, 0.4, 0.5)
    total.credits[Source("id-1", "suffix")] = domain.Credit(4, 3, 2, 1)
    message = event_to_proto(domain.FinishedEvent(domain.Finish.LENGTH, "", total), {}, 11, no_piece).finished
    assert message.reason == generation_pb2.FINISH_REASON_LENGTH
    found = message.total
    assert (found.tokens, found.steps, found.nodes, found.prompt_tokens) == (5, 2, 9, 11)
    assert (found.verify_s, found.plain_s, found.wait_s) == (0.1, 0.2, 0.3)
    assert (found.prefill_s, found.elapsed_s) == (0.4, 0.5)
    credit = found.drafters[0]
    assert (credit.drafter_id, credit.drafter_name, credit.strategy) == ("id-1", "id-1", "suffix")
    assert (credit.proposed, credit.accepted, credit.stale, credit.refused) == (4, 3, 2, 1)


def test_tokens_are_spelled_for_those_who_ask():
    event = domain.TokensEvent((8, 7, 9), "text", (None, None, None), spelled=True)
    assert list(event_to_proto(event, {}, 5, PIECES.__getitem__).tokens.pieces) == [b"\xc3", b"a", b""]


def test_a_step_names_each_source_once_and_a_node_names_those_alike_once():
    a, b, twin = Source("id-1", "suffix"), Source("id-2", "lookup"), Source("id-3", "suffix")
    nodes = (
        VerifiedNode(7, ROOT, (b, a), 0.75, True),
        VerifiedNode(8, 0, (a, twin), 0.5, True),
        VerifiedNode(9, ROOT, (), 0.25, False),
    )
    event = StepEvent(nodes, 4, StepFigures(step_s=0.02, wait_s=0.001, rows=9, plain_step_s=0.018))
    step = event_to_proto(event, {"id-1": "fast", "id-3": "fast"}, 5, PIECES.__getitem__).step
    assert list(step.source_names) == ["id-2/lookup", "fast/suffix"]
    assert [list(node.sources) for node in step.nodes] == [[1, 2], [2], []]
    assert [(node.id, node.piece, node.parent) for node in step.nodes] == [(7, b"a", 0), (8, b"\xc3", 1), (9, b"", 0)]
    assert [(node.probability, node.accepted) for node in step.nodes] == [(0.75, True), (0.5, True), (0.25, False)]
    assert (step.hidden_nodes, step.rows) == (4, 9)
    assert (step.step_s, step.wait_s, step.plain_step_s) == (0.02, 0.001, 0.018)
