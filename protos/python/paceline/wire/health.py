"""The command `paceline-health`: whether a service serves, as an exit code, for container engines and scripts.

A command of its own, with every service, since services' own commands load what they serve with: a probe that is run
every few seconds can't load torch each time.
"""

from __future__ import annotations

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import Field
from pydantic_settings import CliPositionalArg

from paceline.wire.settings import ClientSettings, StartupError, load_settings
from paceline.wire.tls import channel_credentials, hint

PROG = "paceline-health"
MAX_NAME = 253


class HealthSettings(ClientSettings):
    """Asks a service's gRPC health check; exits with 0 if it is SERVING, and else with 1 and one line that says why."""

    address: CliPositionalArg[str] = Field(max_length=MAX_NAME + 6)
    """host:port of the service."""
    service: str = Field(default="", max_length=MAX_NAME)
    """Full name of one gRPC service; empty asks for the process as a whole."""
    timeout_s: float = Field(default=5.0, gt=0.0, le=300.0)
    """Seconds that the answer may take."""
    name: str = Field(default="", max_length=MAX_NAME)
    """With --tls-ca: the name in the service's certificate, if it isn't the address's."""


def status_of(settings: HealthSettings) -> str:
    """What the health check says, such as SERVING.

    Raises:
        StartupError: it can't be asked; the message says why.
    """
    credentials = channel_credentials(settings)
    options = [("grpc.ssl_target_name_override", settings.name)] if settings.name and credentials else []
    if credentials is None:
        channel = grpc.insecure_channel(settings.address, options=options)
    else:
        channel = grpc.secure_channel(settings.address, credentials, options=options)
    request = health_pb2.HealthCheckRequest(service=settings.service)
    with channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=settings.timeout_s)
        except grpc.RpcError as error:
            raise StartupError(f"{settings.address}: {_why(error, settings)}") from None
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def _why(error: grpc.RpcError, settings: HealthSettings) -> str:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.NOT_FOUND:
        return f"it knows no service {settings.service!r}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"no answer within {settings.timeout_s:g} s"
    return hint(details, settings) or f"{code.name}: {details.splitlines()[0] if details else 'no reason given'}"


def main() -> int:
    settings = load_settings(HealthSettings, sys.argv[1:], PROG)
    try:
        status = status_of(settings)
    except StartupError as error:
        print(f"{PROG}: {error}", file=sys.stderr)
        return 1
    if status != "SERVING":
        print(f"{PROG}: {settings.address}: {status}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
