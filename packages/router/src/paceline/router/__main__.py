"""The console script `paceline-router`."""

from __future__ import annotations

import sys

from paceline.router.access.command import TokenSettings, make_token
from paceline.router.admin import commands
from paceline.router.serve import serve
from paceline.router.settings import (
    DrainSettings,
    PolicySettings,
    RouterSettings,
    StatusSettings,
    TenantsSettings,
    UndrainSettings,
    WithdrawSettings,
)
from paceline.router.status import show_status
from paceline.router.version import VERSION
from paceline.wire.settings import Command, run_commands

COMMANDS = {
    "serve": Command("take requests, choose verifiers and drafters, relay tokens", RouterSettings, serve),
    "status": Command("show who is registered and what was learnt", StatusSettings, show_status),
    "drain": Command("have a verifier or drafter get nothing new", DrainSettings, commands.drain),
    "undrain": Command("let it have requests again", UndrainSettings, commands.undrain),
    "withdraw": Command("end a member's lease and refuse it", WithdrawSettings, commands.withdraw),
    "policy": Command("choose drafters by another policy", PolicySettings, commands.change_policy),
    "tenants": Command("show what tenants may use, and use", TenantsSettings, commands.show_tenants),
    "token": Command("make a token and its entry in the token file", TokenSettings, make_token),
}


def main() -> int:
    return run_commands("paceline-router", VERSION, COMMANDS, sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
