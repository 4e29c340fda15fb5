"""The command `drafters`: who drafts, where, and what the router thinks of them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from paceline.cli.asking import ask_status
from paceline.cli.command import AsJson, command
from paceline.cli.console import console, print_json
from paceline.cli.convert import deployment_of
from paceline.cli.deployment import Deployment, Drafter
from paceline.cli.settings import RouterSettings
from paceline.cli.tables import arms_table, drafters_table


@command
def drafters(settings: RouterSettings, as_json: AsJson = False) -> None:
    """List drafters: strategies, revision, verifiers, accepted candidates, and what the router expects of them.

    A drafter that is somebody's own serves only requests that name its id; one on trial would replace another.
    """
    deployment = deployment_of(asyncio.run(ask_status(settings)), settings.address)
    if as_json:
        print_json([_to_json(deployment, drafter) for drafter in deployment.drafters])
        return
    if not deployment.drafters:
        console.print("No drafter is there; 'paceline-drafter serve --router …' starts one.")
        return
    console.print(drafters_table(deployment))
    console.print(arms_table(deployment, with_drafters_only=True))


def _to_json(deployment: Deployment, drafter: Drafter) -> dict[str, Any]:
    candidates = deployment.candidates_of(drafter.name)
    arms = [arm for arm in deployment.arms if drafter.name in arm.drafters]
    return {
        **asdict(drafter),
        "candidates": {**asdict(candidates), "share": candidates.share},
        "arms": [{**asdict(arm), "label": arm.label} for arm in arms],
    }
