"""Counts that are announced: by drafter, and of a bounded number of them."""

from __future__ import annotations

from paceline.v1 import router_pb2
from paceline.verifier.convert import work_to_proto
from paceline.verifier.work import MAX_DRAFTERS, OTHERS, Tally, Work


def test_candidates_count_for_whoever_proposed_them() -> None:
    work = Work()
    work.drafted({"suffix": 3, "head": 2}, {"suffix": 1})
    work.drafted({"suffix": 1}, {"suffix": 1})
    assert work.drafters == {"suffix": Tally(4, 2), "head": Tally(2, 0)}


def test_names_that_keep_coming_are_counted_together() -> None:
    work = Work()
    for number in range(3 * MAX_DRAFTERS):
        work.drafted({f"drafter {number}": 2}, {f"drafter {number}": 1})
    work.drafted({"drafter 0": 5}, {})
    assert len(work.drafters) == MAX_DRAFTERS
    assert work.drafters["drafter 0"] == Tally(7, 1)
    assert work.drafters[OTHERS] == Tally(2 * (2 * MAX_DRAFTERS + 1), 2 * MAX_DRAFTERS + 1)


def test_all_of_it_is_announced() -> None:
    work = Work(prompt_tokens=1, generated_tokens=2, session_steps=3, candidates=Tally(4, 1))
    work.drafted({"suffix": 4}, {"suffix": 1})
    assert work_to_proto(work, 0.5, 6, 7) == router_pb2.VerifierWork(
        clock_s=0.5,
        prompt_tokens=1,
        generated_tokens=2,
        session_steps=3,
        draft_tokens=4,
        accepted_tokens=1,
        running=6,
        queued=7,
        drafters=[{"name": "suffix", "draft_tokens": 4, "accepted_tokens": 1}],
    )
