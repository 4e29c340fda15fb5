"""Bounds and defaults that pages quote are those of the code."""

from __future__ import annotations

import re

import pytest
from pages import ROOT

from paceline.drafter.models.strategies import MODEL_STRATEGIES
from paceline.drafter.strategies import STRATEGIES
from paceline.router.arms import MAX_ARMS_WITH_PAIRS
from paceline.router.checks import MAX_MESSAGES, MAX_SCHEMA_BYTES, MAX_TEXT_BYTES, MAX_TOKEN_IDS
from paceline.router.http.limits import BODY_TIMEOUT_S, MAX_BODY_BYTES
from paceline.router.policies import POLICIES
from paceline.router.probation import SHARE
from paceline.router.settings import AdminSettings, RouterSettings
from paceline.trainer.recipes.registry import RECIPES
from paceline.trainer.settings import TrainerSettings
from paceline.verifier.allowance import MAX_SHARE
from paceline.verifier.link import MAX_TREE_DEPTH, MAX_TREE_NODES
from paceline.verifier.quarantine import FIRST_QUARANTINE_S, MAX_QUARANTINE_S, MAX_REFUSALS, REFUSAL_WINDOW_S
from paceline.verifier.settings import VerifierSettings
from paceline.wire.settings import DEFAULT_MAX_MESSAGE_BYTES

MIB = 1 << 20
SMALL = {8: "eight", 10: "ten"}
ROUTER, VERIFIER, TRAINER, ADMIN = (
    {name: field.default for name, field in settings.model_fields.items()}
    for settings in (RouterSettings, VerifierSettings, TrainerSettings, AdminSettings)
)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("docs/operating.md", f"{MAX_TEXT_BYTES // MIB} MiB of text, {MAX_TOKEN_IDS:,} token ids, "),
        ("docs/operating.md", f"{MAX_MESSAGES:,} messages"),
        ("docs/operating.md", f"{VERIFIER['max_tokens']:,} tokens, {VERIFIER['default_max_tokens']} if unasked"),
        ("docs/operating.md", f"{MAX_SCHEMA_BYTES // 1024} KiB"),
        ("docs/operating.md", f"{MAX_BODY_BYTES // MIB} MiB in {BODY_TIMEOUT_S:.0f} s"),
        ("docs/operating.md", f"{DEFAULT_MAX_MESSAGE_BYTES // MIB} MiB"),
        ("docs/operating.md", f"{ROUTER['max_requests']} a router; {VERIFIER['max_sessions']} run and"),
        ("docs/operating.md", f"and {VERIFIER['max_queue']} wait a verifier"),
        ("docs/operating.md", f"{MAX_TREE_NODES} nodes, {MAX_TREE_DEPTH} deep"),
        ("docs/operating.md", f"| {ROUTER['listen'].rpartition(':')[2]} | router, gRPC"),
        ("docs/operating.md", f"| {ADMIN['admin'].rpartition(':')[2]} | router, admin"),
        ("docs/operating.md", f"| {VERIFIER['listen'].rpartition(':')[2]} | verifier"),
        ("docs/operating.md", f"| {TRAINER['listen'].rpartition(':')[2]} | trainer"),
        ("docs/concepts.md", f"{ROUTER['segment_tokens']} tokens by default"),
        ("docs/errors.md", f"{MAX_BODY_BYTES // MIB} MiB |"),
        ("docs/errors.md", f"within {BODY_TIMEOUT_S:.0f} s"),
        ("docs/errors.md", f"{SMALL[MAX_REFUSALS]} unusable messages within {SMALL[int(REFUSAL_WINDOW_S)]} seconds"),
        ("docs/errors.md", f"{FIRST_QUARANTINE_S:.0f} s, then twice as long each time, up to {MAX_QUARANTINE_S:.0f} s"),
    ],
)
def test_a_figure_is_the_codes(page: str, words: str) -> None:
    assert words in (ROOT / page).read_text()


def test_words_for_shares_hold() -> None:
    assert MAX_SHARE == 0.25, "docs/operating.md and docs/security.md say a quarter of the event loop"
    assert SHARE == 1 / 8, "docs/security.md and docs/policy.md say one in eight decisions"
    assert RouterSettings.model_fields["trial_every"].default == 8, "docs/concepts.md says one in eight requests"
    assert MAX_ARMS_WITH_PAIRS == 12, "packages/router/README.md says at most twelve"


def names_in_row(page: str, start: str, column: int) -> set[str]:
    """What a row of a table has in `code` in one of its columns."""
    row = re.search(rf"^\| {re.escape(start)}.*\|$", (ROOT / page).read_text(), re.MULTILINE)
    assert row is not None, start
    return set(re.findall(r"`(\w+)`", row[0].split("|")[column]))


def names_in_table(page: str, head: str) -> set[str]:
    """What the rows of a table have in `code` in their first column."""
    rows = (ROOT / page).read_text().split(f"| {head} |")[1].split("\n\n")[0].splitlines()[2:]
    return {row.split("|")[1].strip(" `") for row in rows}


def test_names_that_pages_list_are_those_there_are() -> None:
    ways = {*STRATEGIES, *MODEL_STRATEGIES}
    assert names_in_row("README.md", "[`packages/router`]", 3) == set(POLICIES)
    assert names_in_row("README.md", "[`packages/drafter`]", 3) == ways
    assert names_in_row("README.md", "[`packages/trainer`]", 3) == set(RECIPES)
    assert names_in_table("packages/router/README.md", "policy") == set(POLICIES)
    assert names_in_table("packages/drafter/README.md", "`--strategies`") == ways
    assert names_in_table("packages/trainer/README.md", "recipe") == set(RECIPES)
    assert f"`{ROUTER['policy']}` (the default)" in (ROOT / "README.md").read_text()
