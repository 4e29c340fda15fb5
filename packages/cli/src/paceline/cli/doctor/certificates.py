"""Certificates and keys: whether they are what they should be, who may read the keys, and when they expire."""

from __future__ import annotations

import ssl
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from paceline.cli.doctor.finding import Finding, fail, ok, warn
from paceline.cli.doctor.settings import DoctorSettings
from paceline.wire.settings import ServiceSettings, StartupError
from paceline.wire.tls import channel_credentials, listening_tls

SOON_S = 14 * 86_400.0
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class Certificate:
    """trouble: why it doesn't hold now. expires_s: when it ends, since 1970, if that could be found out."""

    setting: str
    path: Path
    trouble: str = ""
    expires_s: float | None = None


def check(settings: DoctorSettings) -> list[Finding]:
    paths = (settings.tls_cert, settings.tls_key, settings.tls_client_ca, settings.tls_ca, settings.tls_client_cert)
    if not any(paths) and settings.tls_client_key is None:
        return [ok("no TLS is set")]
    try:
        listening_tls(_as_service(settings))
        channel_credentials(settings)
    except StartupError as error:
        return [fail(str(error), "correct the files or the settings; services don't start with them")]
    findings = [judge_key(key, key.stat().st_mode) for key in (settings.tls_key, settings.tls_client_key) if key]
    return [*findings, *(judge(one, time.time()) for one in _look(settings))]


def _as_service(settings: DoctorSettings) -> ServiceSettings:
    return ServiceSettings.model_construct(
        tls_cert=settings.tls_cert, tls_key=settings.tls_key, tls_client_ca=settings.tls_client_ca
    )


def _look(settings: DoctorSettings) -> list[Certificate]:
    pairs = (
        ("--tls-cert", settings.tls_cert, settings.tls_key),
        ("--tls-client-cert", settings.tls_client_cert, settings.tls_client_key),
    )
    authorities = (("--tls-ca", settings.tls_ca), ("--tls-client-ca", settings.tls_client_ca))
    found = [own(setting, certificate, key) for setting, certificate, key in pairs if certificate and key]
    return [*found, *(authority(setting, path) for setting, path in authorities if path)]


def own(setting: str, path: Path, key: Path) -> Certificate:
    """Shakes hands with itself in memory: OpenSSL says whether the certificate holds now."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path, key)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False  # its names are for those who dial it
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it vouches for itself here: only its dates are asked for
    client.load_verify_locations(path)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(to_server, to_client, server_side=True)
    dialling = client.wrap_bio(to_client, to_server)
    for _ in range(4):  # flights of a handshake, at most
        for side in (dialling, serving):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return Certificate(setting, path, error.verify_message)
            except ssl.SSLError:
                break
    shown = dialling.getpeercert() or {}
    return Certificate(setting, path, "", _seconds(shown.get("notAfter")))


def authority(setting: str, path: Path) -> Certificate:
    """Of several in a file, the one that ends first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(path)
    ends = [end for one in context.get_ca_certs() if (end := _seconds(one.get("notAfter"))) is not None]
    return Certificate(setting, path, "", min(ends, default=None))


def _seconds(written: object) -> float | None:
    return float(ssl.cert_time_to_seconds(written)) if isinstance(written, str) else None


def judge(certificate: Certificate, now_s: float) -> Finding:
    shown = f"{certificate.setting} {certificate.path}"
    if certificate.trouble:
        return fail(f"{shown}: {certificate.trouble}", "get a new one, and start the services that use it again")
    if certificate.expires_s is None:
        return ok(f"{shown}: it holds; when it ends is not told")
    days = (certificate.expires_s - now_s) / DAY_S
    if days <= 0:
        return fail(
            f"{shown}: it expired {-days:.0f} days ago", "get a new one, and start the services that use it again"
        )
    if certificate.expires_s - now_s < SOON_S:
        return warn(
            f"{shown}: it expires in {24 * days:.0f} hours" if days < 2 else f"{shown}: it expires in {days:.0f} days",
            "get a new one in time",
        )
    return ok(f"{shown}: it holds for {days:.0f} days")


def judge_key(path: Path, mode: int) -> Finding:
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        return fail(f"the private key {path} may be read by everybody on this machine", f"chmod 600 {path}")
    return ok(f"the private key {path} is not for everybody")
