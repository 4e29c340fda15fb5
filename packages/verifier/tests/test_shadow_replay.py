"""The replay of a text to a drafter: what is accepted, what it costs, and what is waited for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.verifier.calibration import Calibration
from paceline.verifier.shadow_replay import Costs, Habits, Part, Replay, walk
from paceline.verifier.trie import Candidate, Node, Source
from paceline.wire.tree import ROOT, DraftTree

SOURCE = Source("d", "s")
STEP_S = 0.02
NOTHING = DraftTree()

tokens = st.integers(0, 2)
texts = st.lists(tokens, min_size=1, max_size=40)


def same(_rows: int) -> float:
    return STEP_S


ANY = Costs(seconds=same, forward_s=same, num_sessions=1, max_nodes=10_000, least_value=0.0)
Paths = set[tuple[int, ...]]


def make_replay(text: Sequence[int], costs: Costs = ANY, habits: Habits | None = None, length: int = 0) -> Replay:
    known = length or len(text)
    return Replay(text, known, 10_000, [SOURCE], Calibration(), habits or Habits(), costs)


def chain(*path: int, claim: float = -0.05) -> DraftTree:
    return DraftTree(path, tuple(range(-1, len(path) - 1)), (claim,) * len(path), (0,) * len(path))


def tree_of(paths: Paths) -> DraftTree:
    """A tree with these paths, of which every prefix is one too."""
    ordered = sorted(paths, key=len)
    places = {path: index for index, path in enumerate(ordered)}
    parents = tuple(places[path[:-1]] if len(path) > 1 else ROOT for path in ordered)
    return DraftTree(tuple(path[-1] for path in ordered), parents, (-0.3,) * len(ordered), (0,) * len(ordered))


def some_paths(rng: random.Random, text: Sequence[int]) -> Paths:
    """Right ones and wrong ones."""
    paths: Paths = set()
    for _ in range(rng.randrange(3)):
        path = list(text[: rng.randrange(5)])
        path += [rng.randrange(3) for _ in range(rng.randrange(3))]
        paths |= {tuple(path[:end]) for end in range(1, len(path) + 1)}
    return paths


def play(replay: Replay, answer: Callable[[int], list[Part]]) -> Replay:
    while not replay.done:
        before = replay.at
        replay.answer(answer(replay.at))
        assert replay.done or replay.at > before
    return replay


@settings(deadline=None)
@given(st.randoms(use_true_random=False), texts)
def test_walk_finds_the_longest_path_that_the_text_follows(rng: random.Random, text: list[int]) -> None:
    paths = some_paths(rng, text)
    tree = tree_of(paths)
    nodes = zip(tree.tokens, tree.parents, strict=True)
    candidates = [Candidate(Node(token, None), parent, 0.5) for token, parent in nodes]
    accepted = walk(candidates, text)
    longest = max((len(path) for path in paths if tuple(text[: len(path)]) == path), default=0)
    assert [candidates[index].node.token for index in accepted] == text[:longest]
    assert [candidates[index].parent for index in accepted] == [ROOT, *accepted][: len(accepted)]


@settings(deadline=None)
@given(st.randoms(use_true_random=False), texts)
def test_a_drafter_that_answers_at_once_earns_what_a_verifier_of_its_own_would_have_seen(
    rng: random.Random, text: list[int]
) -> None:
    drafts = {at: some_paths(rng, text[at:]) for at in range(len(text))}
    replay = play(make_replay(text), lambda at: [Part(0.0, tree_of(drafts[at]))])

    at = steps = nodes = 0
    known: Paths = set()
    while at < len(text):
        known |= drafts[at]
        right = max((len(path) for path in known if tuple(text[at : at + len(path)]) == path), default=0)
        steps += 1
        nodes += len(known)
        taken = tuple(text[at : at + right + 1])
        known = {path[len(taken) :] for path in known if path[: len(taken)] == taken and len(path) > len(taken)}
        at += len(taken)
    figures = replay.figures
    assert (figures.tokens, figures.steps, figures.nodes) == (len(text), steps, nodes)
    assert figures.verify_s == pytest.approx(STEP_S * steps)
    assert figures.plain_s == pytest.approx(STEP_S * len(text))


@settings(deadline=None)
@given(texts, st.integers(1, 8))
def test_who_says_nothing_is_worth_plain_decoding(text: list[int], num_sessions: int) -> None:
    costs = Costs(lambda rows: 0.01 + 0.001 * rows, lambda rows: 0.01 + 0.001 * rows, num_sessions, 8, 0.0)
    for replay in (make_replay(text, costs), play(make_replay(text, costs), lambda at: [])):
        replay.silent()
        figures = replay.figures
        assert (figures.tokens, figures.steps, figures.nodes, figures.wait_s) == (len(text), len(text), 0, 0.0)
        assert figures.verify_s == pytest.approx(figures.plain_s)


def test_an_answer_is_waited_for_as_long_as_it_takes() -> None:
    text = [1, 2, 3, 4] * 8
    replay = play(make_replay(text), lambda at: [Part(0.002, chain(*text[at : at + 3]))])
    figures = replay.figures
    assert (figures.steps, figures.nodes) == (8, 8 * 3)
    assert figures.wait_s == pytest.approx(0.003 + 7 * 0.002)  # the first by habit: for that it read the context
    assert figures.draft_s == pytest.approx(7 * 0.002)


def test_what_comes_late_is_of_use_where_it_reaches_far_enough() -> None:
    """An answer takes fourteen steps and a half, longer than anybody waits, and reaches forty tokens far."""
    text = list(range(41))
    habits = Habits()
    habits.first.latency.forget(0.29)
    replay = make_replay(text, habits=habits)
    replay.answer([Part(0.29, chain(*text[:40]))])
    assert (replay.at, replay.figures.steps) == (15, 15)
    replay.answer([Part(0.29, NOTHING)])
    assert replay.done
    assert (replay.figures.steps, replay.figures.nodes, replay.figures.wait_s) == (16, 25, 0.0)


def test_one_who_is_slower_than_steps_is_not_waited_for_and_costs_nothing() -> None:
    text = [1, 2, 3, 4] * 16
    habits = Habits()
    wrong = chain(9)
    for _ in range(4):
        replay = play(make_replay(text, habits=habits), lambda at: [Part(0.2, wrong)])
    figures = replay.figures
    assert figures.wait_s < 0.01
    assert figures.plain_s <= figures.verify_s
    assert figures.draft_s > 1.0


def test_the_second_part_of_an_answer_is_waited_for_where_it_pays() -> None:
    text = [1, 2, 3, 4, 5, 6, 7, 8] * 8
    habits = Habits()

    def answer(at: int) -> list[Part]:
        return [Part(0.001, NOTHING), Part(0.004, chain(*text[at : at + 7]))]

    for _ in range(3):  # until it is known what the rest brings
        replay = play(make_replay(text, habits=habits), answer)
    assert replay.figures.steps == 8
    assert replay.figures.wait_s == pytest.approx(8 * 0.004, rel=0.05)


def test_the_step_that_reaches_the_end_counts_whole_where_the_text_goes_on() -> None:
    text = list(range(20))
    replay = make_replay(text[:10], length=10)
    replay.answer([Part(0.0, chain(*text[:6]))])
    assert replay.at == 7
    replay.heard(text)
    replay.answer([Part(0.0, chain(*text[7:13]))])
    assert replay.done
    assert (replay.figures.tokens, replay.figures.steps) == (14, 2)
    assert replay.figures.plain_s == pytest.approx(14 * STEP_S)


def test_costs_are_those_of_a_step_that_many_share() -> None:
    def seconds(rows: int) -> float:
        return 0.01 if rows <= 8 else 0.01 + 0.01 * (rows - 8)

    text = list(range(12))
    alone, among = (
        play(
            make_replay(text, Costs(seconds, seconds, num_sessions, 16, 0.0)),
            lambda at: [Part(0.0, chain(*text[at : at + 3]))],
        ).figures
        for num_sessions in (1, 8)
    )
    assert (alone.steps, alone.plain_s / alone.verify_s) == (3, pytest.approx(4.0))
    assert (among.steps, among.nodes) == (12, 0)  # eight rows are there without candidates


def test_what_the_text_says_about_candidates_is_learnt() -> None:
    calibration = Calibration()
    text = [5] * 40
    replay = Replay(text, 40, 10_000, [SOURCE], calibration, Habits(), ANY)
    play(replay, lambda at: [Part(0.0, chain(9, claim=-0.1))])
    node = Node(9, None, proposals={SOURCE: -0.1})
    assert calibration.probability(node) < 0.1
