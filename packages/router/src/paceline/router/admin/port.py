"""Where the admin port listens, and that nobody gets to it by mistake."""

from __future__ import annotations

import ipaddress

from paceline.router.settings import AUTO, RouterSettings
from paceline.wire.settings import StartupError

NONE = "none"
LOOPBACK = "127.0.0.1"


def admin_address(settings: RouterSettings) -> str:
    """host:port, empty for none. Raises StartupError for one that other machines could reach without proving who they
    are."""
    if settings.admin in (NONE, ""):
        return ""
    if settings.admin == AUTO:
        _, _, port = settings.listen.rpartition(":")
        number = int(port) if port.isdigit() else 0  # what is no port is said where it is bound
        return f"{LOOPBACK}:{number + 1 if 0 < number < 65535 else 0}"
    host, _, _ = settings.admin.rpartition(":")
    if host and not _is_loopback(host) and settings.token_file is None and settings.tls_client_ca is None:
        raise StartupError(
            f"--admin {settings.admin} can be reached from other machines; give --token-file with a token for admin, "
            f"or --tls-client-ca, or keep it on {LOOPBACK}"
        )
    return settings.admin


def _is_loopback(host: str) -> bool:
    name = host.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
