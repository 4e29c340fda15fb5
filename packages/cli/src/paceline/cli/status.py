"""The command `status`: who is there, and what the router has learnt."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from paceline.cli.asking import ask_status
from paceline.cli.command import AsJson, command
from paceline.cli.console import console, print_json
from paceline.cli.convert import deployment_of
from paceline.cli.settings import RouterSettings
from paceline.cli.tables import arms_table, drafters_table, headline, trainers_table, verifiers_table


@command
def status(settings: RouterSettings, as_json: AsJson = False) -> None:
    """Show who is there and what the router has learnt.

    Verifiers with their load, drafters with where they are connected, and the arms (sets of drafters) that the router
    chooses between, with the speed that it expects of each, relative to plain decoding.
    """
    deployment = deployment_of(asyncio.run(ask_status(settings)), settings.address)
    if as_json:
        print_json(asdict(deployment))
        return
    console.print(headline(deployment))
    console.print(verifiers_table(deployment))
    console.print(drafters_table(deployment))
    if deployment.trainers:
        console.print(trainers_table(deployment))
    console.print(arms_table(deployment))
