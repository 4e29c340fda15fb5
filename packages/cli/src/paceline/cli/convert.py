"""From protobuf to values."""

from __future__ import annotations

import math

from paceline.cli.deployment import Arm, Candidates, Deployment, Drafter, Trainer, Verifier, Work
from paceline.v1 import router_pb2, types_pb2


def deployment_of(response: router_pb2.GetStatusResponse, router: str) -> Deployment:
    """What the router at this address has told."""
    members = response.members
    names = {member.id: member.name for member in members if member.role == router_pb2.ROLE_DRAFTER}
    verifiers = [member for member in members if member.role == router_pb2.ROLE_VERIFIER]
    return Deployment(
        router=router,
        version=response.peer.version,
        protocol=_protocol(response.peer),
        policy=response.policy,
        active_requests=response.active_requests,
        finished_requests=response.finished_requests,
        verifiers=tuple(_verifier(member, names) for member in verifiers),
        drafters=tuple(_drafter(member, verifiers) for member in members if member.role == router_pb2.ROLE_DRAFTER),
        trainers=tuple(_trainer(member) for member in members if member.role == router_pb2.ROLE_TRAINER),
        arms=tuple(_arm(arm) for arm in response.arms),
    )


def _protocol(peer: types_pb2.Peer) -> str:
    return f"{peer.protocol_major}.{peer.protocol_minor}"


def _verifier(member: router_pb2.Member, names: dict[str, str]) -> Verifier:
    return Verifier(
        id=member.id,
        name=member.name,
        address=member.address,
        model=member.model,
        load=member.load,
        capacity=member.capacity,
        draining=member.draining,
        drafters=tuple(sorted(names.get(drafter, drafter) for drafter in member.connected)),
        version=member.peer.version,
        protocol=_protocol(member.peer),
        work=_work(member.work) if member.HasField("work") else None,
    )


def _work(work: router_pb2.VerifierWork) -> Work:
    return Work(
        clock_s=work.clock_s,
        prompt_tokens=work.prompt_tokens,
        generated_tokens=work.generated_tokens,
        session_steps=work.session_steps,
        candidates=Candidates(work.draft_tokens, work.accepted_tokens),
        running=work.running,
        queued=work.queued,
        drafters={one.name: Candidates(one.draft_tokens, one.accepted_tokens) for one in work.drafters},
    )


def _drafter(member: router_pb2.Member, verifiers: list[router_pb2.Member]) -> Drafter:
    return Drafter(
        id=member.id,
        name=member.name,
        strategies=tuple(member.strategies),
        revision=member.revision,
        own=member.own,
        trial_of=member.trial_of,
        draining=member.draining,
        verifiers=tuple(sorted(host.name or host.id for host in verifiers if member.id in host.connected)),
        version=member.peer.version,
        protocol=_protocol(member.peer),
    )


def _trainer(member: router_pb2.Member) -> Trainer:
    return Trainer(member.id, member.name, member.address, member.peer.version, _protocol(member.peer))


def _arm(arm: router_pb2.ArmStatus) -> Arm:
    return Arm(
        model=arm.model,
        drafters=tuple(arm.drafters),
        max_nodes=arm.max_nodes,
        segments=arm.pulls,
        speed=arm.mean_reward if arm.pulls else None,
        bonus=arm.bonus if math.isfinite(arm.bonus) else None,
    )
