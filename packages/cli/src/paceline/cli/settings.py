"""How a command finds the deployment: the same settings, under the same names, as the services' own.

A field becomes an option (`--tls-ca`), a variable (`PACELINE_TLS_CA`) and a key of the file that `--config` names; its
docstring is the option's help. See `paceline.wire.settings`.
"""

from __future__ import annotations

from paceline.wire.settings import ClientSettings

DEFAULT_ROUTER = "127.0.0.1:7700"


class RouterSettings(ClientSettings):
    """Of commands that ask a router."""

    router: str = DEFAULT_ROUTER
    """host:port of the router; of several, separated by commas, the first is asked."""

    @property
    def address(self) -> str:
        """Of the router that is asked."""
        return self.router.split(",")[0].strip()


class TrainerSettings(RouterSettings):
    """Of commands that ask a trainer."""

    trainer: str = ""
    """host:port of the trainer; empty asks the router who is there."""
