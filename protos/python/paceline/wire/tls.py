"""TLS and mutual TLS of a service's ports and of what it dials. Files that can't be used are said at the start."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from paceline.wire.settings import ClientSettings, ServiceSettings, StartupError


@dataclass(frozen=True, slots=True)
class ListeningTls:
    """Files of a port that speaks TLS; they have been looked at.

    Attributes:
        certificate, key: the service's own.
        client_ca: authority that vouches for callers, who must have a certificate; None asks for none.
    """

    certificate: Path
    key: Path
    client_ca: Path | None


def listening_tls(settings: ServiceSettings) -> ListeningTls | None:
    """What a service's ports speak; None for no TLS. Raises StartupError."""
    certificate, key, client_ca = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if certificate is None and key is None:
        if client_ca is not None:
            raise StartupError("--tls-client-ca needs --tls-cert and --tls-key: only TLS can ask for certificates")
        return None
    if certificate is None or key is None:
        raise StartupError("TLS needs both --tls-cert and --tls-key")
    _check_pair("--tls-cert", certificate, "--tls-key", key)
    if client_ca is not None:
        _check_authority("--tls-client-ca", client_ca)
    return ListeningTls(certificate, key, client_ca)


def server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    """The same for gRPC."""
    tls = listening_tls(settings)
    if tls is None:
        return None
    authority = None if tls.client_ca is None else tls.client_ca.read_bytes()
    pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
    return grpc.ssl_server_credentials([pair], authority, require_client_auth=authority is not None)


def channel_credentials(settings: ClientSettings) -> grpc.ChannelCredentials | None:
    """How services are dialled; None for no TLS. Raises StartupError.

    A service that is asked for a certificate shows that of its ports, unless it has another for dialling.
    """
    certificate, key = settings.tls_client_cert, settings.tls_client_key
    if (certificate is None) != (key is None):
        raise StartupError("a certificate for dialling needs both --tls-client-cert and --tls-client-key")
    if settings.tls_ca is None:
        if certificate is not None:
            raise StartupError("--tls-client-cert needs --tls-ca: without it services are dialled without TLS")
        return None
    _check_authority("--tls-ca", settings.tls_ca)
    names = ("--tls-client-cert", "--tls-client-key")
    if certificate is None and isinstance(settings, ServiceSettings):
        certificate, key, names = settings.tls_cert, settings.tls_key, ("--tls-cert", "--tls-key")
    if certificate is None or key is None:
        return grpc.ssl_channel_credentials(settings.tls_ca.read_bytes())
    _check_pair(names[0], certificate, names[1], key)
    return grpc.ssl_channel_credentials(settings.tls_ca.read_bytes(), key.read_bytes(), certificate.read_bytes())


def hint(details: str, settings: ClientSettings) -> str:
    """What to do about a connection that failed, as far as gRPC's words say that it is TLS's fault; empty otherwise."""
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return f"its certificate is not vouched for by --tls-ca {settings.tls_ca}, or is not for this address"
    if "WRONG_VERSION_NUMBER" in details:
        return "it doesn't speak TLS: leave --tls-ca out, or start it with --tls-cert and --tls-key"
    if "handshake failed" in details:
        return "the TLS handshake failed"
    if "failed to connect" not in details or "Socket closed" not in details:
        return ""
    # Closed before anything was said: the end that turns a caller away doesn't tell it why.
    if settings.tls_ca is None:
        return "it hung up; if it speaks TLS, --tls-ca is needed here"
    return "it hung up in the TLS handshake; it may ask for a certificate (--tls-client-cert) from another authority"


def _check_pair(certificate_setting: str, certificate: Path, key_setting: str, key: Path) -> None:
    """gRPC would take any bytes, and fail at each handshake without saying why."""
    for setting, path in ((certificate_setting, certificate), (key_setting, key)):
        _check_readable(setting, path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise StartupError(
            f"{certificate_setting} {certificate} and {key_setting} {key} are no certificate with its key in PEM, "
            f"without a password: {_reason(error)}"
        ) from None


def _check_authority(setting: str, path: Path) -> None:
    _check_readable(setting, path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except (ssl.SSLError, ValueError) as error:
        raise StartupError(f"{setting} {path} has no certificate in PEM: {_reason(error)}") from None
    if not context.cert_store_stats()["x509"]:
        raise StartupError(f"{setting} {path} has no certificate in PEM")


def _check_readable(setting: str, path: Path) -> None:
    try:
        path.read_bytes()
    except OSError as error:
        raise StartupError(f"{setting}: can't read {path}: {error.strerror}") from None


def _no_password() -> str:
    """OpenSSL would ask for one on the terminal, and the service would stand still."""
    return ""


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or str(error)
    return str(reason).replace("_", " ").lower()
