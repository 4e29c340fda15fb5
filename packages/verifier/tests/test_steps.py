"""What is told of a step: a tree whose accepted nodes are its path, however little room there is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.verifier.model.batch import SessionResult
from paceline.verifier.request import Request
from paceline.verifier.sampling import Sampling
from paceline.verifier.session import Session, TokensEvent
from paceline.verifier.steps import MAX_UNREAD_EVENTS, StepEvent, StepFigures, step_event
from paceline.verifier.text import TextStream
from paceline.verifier.trie import Candidate, Node, Source
from paceline.wire.tree import ROOT

FIGURES = StepFigures(step_s=0.02, wait_s=0.0, rows=9, plain_step_s=0.018)
EOS = 1
SUFFIX, LOOKUP = Source("d1", "suffix"), Source("d2", "lookup")


class Spelling:
    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        return "".join(f"{token} " for token in token_ids)


@st.composite
def steps(draw: st.DrawFn) -> tuple[list[Candidate], list[int]]:
    """A plan, best first, and a path of it from the root."""
    candidates: list[Candidate] = []
    for index in range(draw(st.integers(0, 12))):
        parent = draw(st.integers(ROOT, index - 1))
        above = None if parent == ROOT else candidates[parent].node
        node = Node(100 + index, above, proposals=dict.fromkeys(draw(st.permutations([SUFFIX, LOOKUP])), -0.1))
        candidates.append(Candidate(node, parent, 0.9**index))
    path: list[int] = []
    at = ROOT
    while below := [index for index, one in enumerate(candidates) if one.parent == at]:
        at = draw(st.sampled_from([ROOT, *below]))
        if at == ROOT:
            break
        path.append(at)
    return candidates, path


@settings(deadline=None)
@given(steps(), st.integers(0, 14))
def test_what_is_told_is_a_tree_of_the_plans_nodes_that_has_the_accepted_path_first(step, most):
    candidates, path = step
    event = step_event(candidates, path, most, FIGURES)
    assert len(event.nodes) == min(most, len(candidates))
    assert len(event.nodes) + event.num_hidden == len(candidates)
    by_token = {one.node.token: one for one in candidates}
    for index, told in enumerate(event.nodes):
        planned = by_token[told.token]
        assert told.parent < index
        assert (told.parent == ROOT) == (planned.parent == ROOT)
        if told.parent != ROOT:
            assert event.nodes[told.parent].token == candidates[planned.parent].node.token
        assert (told.sources, told.probability) == (tuple(planned.node.proposals), planned.value)
    accepted = [index for index, told in enumerate(event.nodes) if told.accepted]
    assert [event.nodes[index].token for index in accepted] == [candidates[index].node.token for index in path][:most]
    assert [event.nodes[index].parent for index in accepted] == [ROOT, *accepted][: len(accepted)]
    others = [one.node.token for index, one in enumerate(candidates) if index not in path]
    told_others = [told.token for told in event.nodes if not told.accepted]
    assert told_others == others[: len(told_others)]


def session(steps: int | None) -> Session:
    request = Request("r", (5, 6), Sampling(0.0, 0, 1.0, 0.0, 1), max_tokens=10_000, steps=steps)
    return Session(1, request, TextStream(Spelling(), request.prompt), frozenset({EOS}), 64)


def chain(*tokens: int) -> list[Candidate]:
    nodes = [Node(token, None, proposals={SUFFIX: -0.1, LOOKUP: -0.2}) for token in tokens]
    return [Candidate(node, index - 1, 0.9 ** (index + 1)) for index, node in enumerate(nodes)]


def told(asked: Session) -> list[object]:
    asked.release_events()
    return [asked.events.get_nowait() for _ in range(asked.events.qsize())]


def test_a_step_comes_right_before_its_tokens_and_agrees_with_them():
    asked = session(steps=8)
    asked.commit(SessionResult((7, 8, 20), (0, 1)), chain(7, 8, 9), FIGURES)
    step, tokens = told(asked)
    assert isinstance(step, StepEvent)
    assert isinstance(tokens, TokensEvent)
    accepted = [node for node in step.nodes if node.accepted]
    assert tokens.ids == (*(node.token for node in accepted), 20)
    assert tokens.sources == (*(node.sources[0] for node in accepted), None)
    assert (step.figures, step.num_hidden, tokens.spelled) == (FIGURES, 0, True)


def test_what_was_accepted_beyond_the_answers_end_is_not_called_so():
    asked = session(steps=8)
    assert asked.commit(SessionResult((7, EOS, 8, 20), (0, 1, 2)), chain(7, EOS, 8), FIGURES) == (7, EOS)
    step, _ = told(asked)
    assert [node.accepted for node in step.nodes] == [True, True, False]


def test_who_does_not_ask_hears_nothing_of_steps():
    asked = session(steps=None)
    asked.commit(SessionResult((7, 20), (0,)), chain(7), FIGURES)
    (tokens,) = told(asked)
    assert isinstance(tokens, TokensEvent)
    assert not tokens.spelled


def test_a_reader_who_is_far_behind_hears_only_how_many_there_were():
    asked = session(steps=8)
    for _ in range(MAX_UNREAD_EVENTS):
        asked.commit(SessionResult((7, 20), (0,)), chain(7, 8), FIGURES)
        asked.release_events()
    events = [event for event in told(asked) if isinstance(event, StepEvent)]
    assert all(len(event.nodes) + event.num_hidden == 2 for event in events)
    assert [bool(event.nodes) for event in events] == sorted((bool(event.nodes) for event in events), reverse=True)
    assert 0 < sum(1 for event in events if event.nodes) < len(events)
    asked.commit(SessionResult((7, 20), (0,)), chain(7, 8), FIGURES)
    step, _ = told(asked)
    assert len(step.nodes) == 2
