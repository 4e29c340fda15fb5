"""The router and the verifiers that it knows: whether they answer, and speak a protocol that goes with ours."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import grpc.aio

from paceline.cli.asking import explained, get_status
from paceline.cli.convert import deployment_of
from paceline.cli.deployment import Deployment, Drafter, Trainer, Verifier
from paceline.cli.doctor.finding import Finding, fail, ok, warn
from paceline.cli.doctor.settings import DoctorSettings
from paceline.v1 import router_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError
from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR, check_peer

TIMEOUT_S = 3.0
MAX_VERIFIERS = 16  # that are asked


@dataclass(frozen=True, slots=True)
class Answered:
    """A verifier that was asked; trouble: why it didn't answer as it should."""

    verifier: Verifier
    trouble: str


def check(settings: DoctorSettings) -> list[Finding]:
    try:
        deployment, answers = asyncio.run(_look(settings))
    except (StartupError, PacelineError) as error:  # files of TLS; another protocol
        return [
            fail(f"the router at {settings.address}: {error}", "install releases of one protocol, or mend the settings")
        ]
    except grpc.aio.AioRpcError as error:
        named = "router" in settings.model_fields_set
        nobody = error.code() is grpc.StatusCode.UNAVAILABLE and "Connection refused" in (error.details() or "")
        if nobody and not named:
            return [ok(f"no router at {settings.address}: nothing runs here yet ('paceline up' starts it)")]
        why = explained(error, f"the router at {settings.address}", settings)
        return [fail(why.partition("; 'paceline")[0], "start it, or correct --router, the token or TLS")]
    return judge(deployment, answers)


async def _look(settings: DoctorSettings) -> tuple[Deployment, list[Answered]]:
    async with connect(settings.address, settings) as channel:
        response = await get_status(router_pb2_grpc.RouterStub(channel))
    deployment = deployment_of(response, settings.address)
    asked = deployment.verifiers[:MAX_VERIFIERS]
    troubles = await asyncio.gather(*(_ask_verifier(one.address, settings) for one in asked))
    return deployment, [Answered(one, trouble) for one, trouble in zip(asked, troubles, strict=True)]


async def _ask_verifier(address: str, settings: DoctorSettings) -> str:
    """What is wrong, empty if nothing is."""
    try:
        async with connect(address, settings) as channel:
            request = verifier_pb2.GetModelRequest()
            response = await verifier_pb2_grpc.VerifierStub(channel).GetModel(request, timeout=TIMEOUT_S)
        check_peer(response.peer)
    except grpc.aio.AioRpcError as error:
        return explained(error, "it", settings).partition("; 'paceline")[0]
    except (PacelineError, StartupError) as error:
        return str(error)
    return ""


def judge(deployment: Deployment, answers: list[Answered]) -> list[Finding]:
    findings = [ok(f"router {deployment.router}: version {deployment.version}, protocol {deployment.protocol}")]
    if not deployment.verifiers:
        findings.append(
            warn("it knows no verifier, and refuses requests", "start one: paceline-verifier serve --router …")
        )
    for answered in answers:
        verifier = answered.verifier
        shown = f"verifier {verifier.id} at {verifier.address}"
        if answered.trouble:
            advice = "fine if only routers and drafters can reach it; else correct its --advertise"
            findings.append(warn(f"{shown} does not answer from here: {answered.trouble}", advice))
        else:
            findings.append(ok(f"{shown}: {verifier.model}, protocol {verifier.protocol}"))
    if lonely := [drafter.name or drafter.id for drafter in deployment.drafters if not drafter.verifiers]:
        findings.append(
            warn(
                f"drafters connected to no verifier: {', '.join(lonely)}",
                "see their logs; they must reach the verifiers",
            )
        )
    if older := sorted({name for name, protocol in _protocols(deployment) if _is_older(protocol)}):
        findings.append(
            warn(
                f"older than protocol {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}: {', '.join(older)}",
                "they go on working; what came later needs a newer release of them",
            )
        )
    return findings


def _protocols(deployment: Deployment) -> list[tuple[str, str]]:
    members: list[Verifier | Drafter | Trainer] = [*deployment.verifiers, *deployment.drafters, *deployment.trainers]
    return [("the router", deployment.protocol), *((member.name or member.id, member.protocol) for member in members)]


def _is_older(protocol: str) -> bool:
    major, _, minor = protocol.partition(".")
    return (int(major), int(minor)) < (PROTOCOL_MAJOR, PROTOCOL_MINOR)
