"""TLS and mutual TLS over real sockets, and what is said of files and peers that don't fit."""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import grpc
import grpc.aio
import pytest
from certificates import Authority, Pair
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from paceline.v1 import router_pb2, router_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.membership import Membership
from paceline.wire.metrics import MetricsServer
from paceline.wire.server import Server
from paceline.wire.settings import ClientSettings, ServiceSettings, StartupError
from paceline.wire.tls import channel_credentials, hint, listening_tls
from paceline.wire.version import make_peer


class Router(router_pb2_grpc.RouterServicer, router_pb2_grpc.RegistryServicer):
    async def GetStatus(self, request: object, context: object) -> router_pb2.GetStatusResponse:
        return router_pb2.GetStatusResponse(policy="fake")

    async def Announce(self, request: object, context: object) -> router_pb2.AnnounceResponse:
        return router_pb2.AnnounceResponse(peer=make_peer("fake", "0"), lease_s=0.3)


@asynccontextmanager
async def serving(**settings: object) -> AsyncIterator[Server]:
    server = Server(ServiceSettings(**settings), ["paceline.v1.Router"])  # type: ignore[arg-type]
    router_pb2_grpc.add_RouterServicer_to_server(Router(), server.grpc)
    router_pb2_grpc.add_RegistryServicer_to_server(Router(), server.grpc)
    await server.bind()
    try:
        yield server
    finally:
        await server.grpc.stop(None)


async def policy(address: str, settings: ClientSettings) -> str:
    async with connect(address, settings) as channel:
        answer = await router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest(), timeout=10)
        return answer.policy


async def refused(address: str, **settings: Any) -> str:
    """The advice that follows from a connection's failure."""
    client = ClientSettings(**settings)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await policy(address, client)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    return hint(error.value.details() or "", client)


def own(pair: Pair) -> dict[str, Path]:
    return {"tls_cert": pair.certificate, "tls_key": pair.key}


def shown(pair: Pair) -> dict[str, Path]:
    return {"tls_client_cert": pair.certificate, "tls_client_key": pair.key}


async def test_tls_without_certificates_of_callers(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    async with serving(**own(ours.pair("service"))) as server:
        assert await policy(server.address, ClientSettings(tls_ca=ours.certificate)) == "fake"
        assert str(theirs.certificate) in await refused(server.address, tls_ca=theirs.certificate)
        assert "--tls-ca is needed" in await refused(server.address)
    async with serving() as plain:
        assert "doesn't speak TLS" in await refused(plain.address, tls_ca=ours.certificate)


async def test_with_mutual_tls_only_the_authoritys_own_are_served(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    ca = ours.certificate
    async with serving(**own(ours.pair("service")), tls_client_ca=ca) as server:
        client = ours.pair("client")
        assert await policy(server.address, ClientSettings(tls_ca=ca, **shown(client))) == "fake"
        as_service = ServiceSettings(tls_ca=ca, **own(client))  # type: ignore[arg-type]
        assert await policy(server.address, as_service) == "fake"
        assert "--tls-client-cert" in await refused(server.address, tls_ca=ca)
        assert "another authority" in await refused(server.address, tls_ca=ca, **shown(theirs.pair("stranger")))
        assert "--tls-ca is needed" in await refused(server.address)


async def test_a_member_says_why_it_cant_announce_itself(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    async with serving(**own(ours.pair("service"))) as server:
        with capture_logs() as logs:
            membership = Membership(
                [server.address],
                ClientSettings(tls_ca=theirs.certificate),
                lambda: router_pb2.Member(id="me", role=router_pb2.ROLE_DRAFTER),
            )
            membership.start()
            async with asyncio.timeout(10):
                while not logs:
                    await asyncio.sleep(0.01)
            await membership.leave()
    assert "not vouched for" in logs[0]["why"]


def test_the_metrics_port_speaks_what_the_others_do(tmp_path: Path) -> None:
    ours = Authority(tmp_path, "ours")
    settings = ServiceSettings(**own(ours.pair("service")), tls_client_ca=ours.certificate)  # type: ignore[arg-type]
    server = MetricsServer("127.0.0.1:0", CollectorRegistry(), listening_tls(settings))
    try:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port))):  # which never says anything, and must not be waited for
            context = ssl.create_default_context(cafile=ours.certificate)
            with pytest.raises((URLError, OSError)):
                urllib.request.urlopen(f"https://{server.address}/metrics", context=context, timeout=10).read()
            client = ours.pair("client")
            context.load_cert_chain(client.certificate, client.key)
            with urllib.request.urlopen(f"https://{server.address}/metrics", context=context, timeout=10) as response:
                assert response.status == 200
    finally:
        server.close()


async def test_half_of_tls_is_refused(tmp_path: Path) -> None:
    pair, ca = Authority(tmp_path, "ours").pair("service"), tmp_path / "ours.pem"
    for half, words in (
        ({"tls_cert": pair.certificate}, "both --tls-cert and --tls-key"),
        ({"tls_key": pair.key}, "both --tls-cert and --tls-key"),
        ({"tls_client_ca": ca}, "--tls-client-ca needs"),
    ):
        with pytest.raises(StartupError, match=words):
            async with serving(**half):
                pass
    for half, words in (
        ({"tls_ca": ca, "tls_client_key": pair.key}, "both --tls-client-cert and"),
        (shown(pair), "--tls-client-cert needs --tls-ca"),
    ):
        with pytest.raises(StartupError, match=words):
            channel_credentials(ClientSettings(**half))  # type: ignore[arg-type]


HOLLOW = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
Make = Callable[[Path, Pair], dict[str, Path]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda bad, pair: {"tls_cert": pair.certificate, "tls_key": bad}, "--tls-key"),
        (lambda bad, pair: {"tls_cert": bad, "tls_key": pair.key}, "--tls-cert"),
        (lambda bad, pair: {**own(pair), "tls_client_ca": bad}, "--tls-client-ca"),
        (lambda bad, pair: {**own(pair), "tls_client_ca": pair.key}, "--tls-client-ca .* has no certificate"),
    ],
)
@pytest.mark.parametrize("content", [None, b"", b"no PEM", HOLLOW])
def test_files_that_are_none_are_said_by_setting(tmp_path: Path, make: Make, words: str, content: bytes | None) -> None:
    bad = tmp_path / "bad.pem"
    if content is not None:
        bad.write_bytes(content)
    pair = Authority(tmp_path, "ours").pair("service")
    with pytest.raises(StartupError, match=words) as error:
        listening_tls(ServiceSettings(**make(bad, pair)))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_key_of_another_certificate_is_said(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ours")
    one, other = authority.pair("one"), authority.pair("other")
    with pytest.raises(StartupError, match="key values mismatch"):
        listening_tls(ServiceSettings(tls_cert=one.certificate, tls_key=other.key))
    mixed = {"tls_client_cert": one.certificate, "tls_client_key": other.key}
    with pytest.raises(StartupError, match=r"--tls-client-cert .* key values mismatch"):
        channel_credentials(ClientSettings(tls_ca=authority.certificate, **mixed))  # type: ignore[arg-type]


def test_an_authority_that_is_none_is_said_when_dialling(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    with pytest.raises(StartupError, match=r"--tls-ca: can't read"):
        connect("127.0.0.1:1", ClientSettings(tls_ca=bad))
    bad.write_text("no PEM")
    with pytest.raises(StartupError, match=r"--tls-ca .* has no certificate"):
        connect("127.0.0.1:1", ClientSettings(tls_ca=bad))


@pytest.mark.parametrize("details", ["", "Connection refused", "deadline exceeded", "Socket closed"])
def test_what_is_not_about_tls_gets_no_advice(details: str) -> None:
    assert hint(details, ClientSettings()) == ""
