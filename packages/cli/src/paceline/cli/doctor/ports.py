"""Whether the ports that `paceline up` wants can be had, or Paceline has them already."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from dataclasses import dataclass

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from paceline.cli.addresses import why_not_free
from paceline.cli.doctor.finding import Finding, fail, ok
from paceline.cli.doctor.settings import DoctorSettings
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings, StartupError

TIMEOUT_S = 2.0
MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Port:
    """trouble: why it can't be had; empty if it can. ours: a Paceline service answers there."""

    whose: str
    option: str
    address: str
    trouble: str
    ours: bool = False


def check(settings: DoctorSettings) -> list[Finding]:
    port = settings.port
    wanted = [("the router's", 0), ("the admin's", 1), ("the verifier's", 10), ("the trainer's", 20)]
    looked = [_look(settings, whose, "--port", f"127.0.0.1:{port + offset}") for whose, offset in wanted if port]
    if settings.http and not settings.http.endswith(":0"):
        looked.append(_look(settings, "HTTP's", "--http", settings.http))
    return judge(looked)


def _look(settings: DoctorSettings, whose: str, option: str, address: str) -> Port:
    try:
        trouble = why_not_free(address)
    except ValueError as error:
        return Port(whose, option, address, str(error))
    if not trouble:
        return Port(whose, option, address, "")
    ours = is_router_http(address) if option == "--http" else asyncio.run(is_service(address, settings))
    return Port(whose, option, address, trouble, ours)


async def is_service(address: str, settings: ClientSettings) -> bool:
    """Whether somebody answers gRPC's health check, which every Paceline service does."""
    try:
        async with connect(address, settings) as channel:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    except (grpc.aio.AioRpcError, StartupError):
        return False
    return True


def is_router_http(address: str) -> bool:
    """Whether a router's HTTP door is there, which tells its protocol to everybody it lets in, or asks who it is."""
    try:
        with urllib.request.urlopen(f"http://{address}/version", timeout=TIMEOUT_S) as response:
            told = json.loads(response.read(MAX_BYTES))
    except urllib.error.HTTPError as error:
        return error.headers.get("WWW-Authenticate", "").lower().startswith("bearer")
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and {"version", "protocol"} <= set(told)


def judge(ports: list[Port]) -> list[Finding]:
    free = [port for port in ports if not port.trouble]
    ours = [port for port in ports if port.trouble and port.ours]
    findings = [
        fail(
            f"{port.whose} {port.address} can't be had: {port.trouble}",
            f"end what listens there, or have 'paceline up' take another with {port.option}",
        )
        for port in ports
        if port.trouble and not port.ours
    ]
    for ports_of_a_kind, words in ((free, "free"), (ours, "a Paceline service runs there")):
        if ports_of_a_kind:
            findings.append(ok(f"{', '.join(port.address for port in ports_of_a_kind)}: {words}"))
    return findings
