"""How a command finds the deployment: the same settings, under the same names, as the services' own.

A field becomes an option (`--tls-ca`), a variable (`PACELINE_TLS_CA`) and a key of the file that `--config` names; its
docstring is the option's help. See `paceline.wire.settings`.
"""

from __future__ import annotations

from pydantic import field_validator

from paceline.cli.addresses import split_address
from paceline.wire.settings import ClientSettings

DEFAULT_ROUTER = "127.0.0.1:7700"


class RouterSettings(ClientSettings):
    """Of commands that ask a router."""

    router: str = DEFAULT_ROUTER
    """host:port of the router; of several, separated by commas, the first is asked."""

    @field_validator("router")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            split_address(address.strip())
        return value

    @property
    def address(self) -> str:
        """Of the router that is asked."""
        return self.router.split(",")[0].strip()


class TrainerSettings(RouterSettings):
    """Of commands that ask a trainer."""

    trainer: str = ""
    """host:port of the trainer; empty asks the router who is there."""

    @field_validator("trainer")
    @classmethod
    def _address(cls, value: str) -> str:
        if value:
            split_address(value)
        return value
