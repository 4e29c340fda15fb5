"""Between protobuf and the domain; every bound on an announcement is checked here."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Sequence

from paceline.router.affinity import Affinity, Trail, message
from paceline.router.arms import Arm
from paceline.router.checks import MAX_NAME, check_length
from paceline.router.context import MAX_HEAD, Prompt, prompt_of
from paceline.router.learner import ArmReport
from paceline.router.member import Member, Role, Work
from paceline.router.reward import measured_speed, reward_of
from paceline.router.trial_book import Verdict
from paceline.router.trials import Outcome
from paceline.router.wish import Wish
from paceline.v1 import generation_pb2, router_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.version import check_peer

MAX_STRATEGIES = 32
MAX_CONNECTED = 1024
MAX_WORKERS = 64  # drafters that a verifier's work is told of
MAX_SHADOWS = 16  # verifiers take no more
CHARACTERS_PER_TOKEN = 4  # of a prompt that comes as tokens; about what English text has

_ROLES = {
    router_pb2.ROLE_VERIFIER: Role.VERIFIER,
    router_pb2.ROLE_DRAFTER: Role.DRAFTER,
    router_pb2.ROLE_TRAINER: Role.TRAINER,
}
_ROLE_NUMBERS = {role: number for number, role in _ROLES.items()}
_OUTCOMES = {
    Outcome.UNDECIDED: router_pb2.TrialVerdict.OUTCOME_UNSPECIFIED,
    Outcome.BETTER: router_pb2.TrialVerdict.OUTCOME_BETTER,
    Outcome.WORSE: router_pb2.TrialVerdict.OUTCOME_WORSE,
}
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_REQUIRED = {
    Role.VERIFIER: ("id", "address", "model"),
    Role.DRAFTER: ("id", "name"),
    Role.TRAINER: ("id", "address"),
}


def role_from_proto(number: router_pb2.Role) -> Role:
    """Raises MALFORMED for a role that isn't one."""
    if number not in _ROLES:
        raise PacelineError(
            Reason.MALFORMED,
            f"role is {number}; it must be verifier, drafter or trainer",
            field="role",
            value=number,
        )
    return _ROLES[number]


def role_to_proto(role: Role) -> router_pb2.Role:
    return _ROLE_NUMBERS[role]


def member_from_proto(message: router_pb2.Member) -> Member:
    """The checked member. Raises INCOMPATIBLE_VERSION, MALFORMED or OUT_OF_RANGE."""
    check_peer(message.peer)
    role = role_from_proto(message.role)
    _check_texts(message)
    for name in _REQUIRED[role]:
        if not getattr(message, name):
            raise PacelineError(Reason.MALFORMED, f"member.{name} is empty; a {role.value} needs one", field=name)
    if message.address:
        check_address(message.address)
    return Member(
        member_id=message.id,
        role=role,
        name=message.name,
        address=message.address,
        model=message.model,
        tokenizer_hash=message.tokenizer_hash,
        strategies=tuple(message.strategies),
        revision=message.revision,
        load=message.load,
        capacity=message.capacity,
        draining=message.draining,
        connected=tuple(message.connected),
        own=message.own,
        trial_of=message.trial_of,
        package=message.peer.package,
        version=message.peer.version,
        protocol=(message.peer.protocol_major, message.peer.protocol_minor),
        work=_work_from_proto(message.work) if message.HasField("work") else None,
    )


def _work_from_proto(message: router_pb2.VerifierWork) -> Work:
    if not 0.0 <= message.clock_s < math.inf:
        raise out_of_range("member.work.clock_s", message.clock_s, "a number of seconds, 0 or more")
    if len(message.drafters) > MAX_WORKERS:
        raise out_of_range(
            "member.work.drafters", f"{len(message.drafters)} entries long", f"at most {MAX_WORKERS} entries"
        )
    for drafter in message.drafters:
        check_length("member.work.drafters.name", drafter.name, MAX_NAME)
    return Work(
        clock_s=message.clock_s,
        prompt_tokens=message.prompt_tokens,
        generated_tokens=message.generated_tokens,
        session_steps=message.session_steps,
        draft_tokens=message.draft_tokens,
        accepted_tokens=message.accepted_tokens,
        running=message.running,
        queued=message.queued,
        drafters=tuple((one.name, one.draft_tokens, one.accepted_tokens) for one in message.drafters),
    )


def _work_to_proto(work: Work) -> router_pb2.VerifierWork:
    return router_pb2.VerifierWork(
        clock_s=work.clock_s,
        prompt_tokens=work.prompt_tokens,
        generated_tokens=work.generated_tokens,
        session_steps=work.session_steps,
        draft_tokens=work.draft_tokens,
        accepted_tokens=work.accepted_tokens,
        running=work.running,
        queued=work.queued,
        drafters=[
            router_pb2.DrafterWork(name=name, draft_tokens=proposed, accepted_tokens=accepted)
            for name, proposed, accepted in work.drafters
        ],
    )


def _check_texts(message: router_pb2.Member) -> None:
    for name in ("id", "name", "address", "model", "tokenizer_hash", "revision", "trial_of"):
        check_length(f"member.{name}", getattr(message, name), MAX_NAME)
    for name in ("package", "version"):
        check_length(f"member.peer.{name}", getattr(message.peer, name), MAX_NAME)
    for name, limit in (("strategies", MAX_STRATEGIES), ("connected", MAX_CONNECTED)):
        entries: Sequence[str] = getattr(message, name)
        if len(entries) > limit:
            raise out_of_range(f"member.{name}", f"{len(entries)} entries long", f"at most {limit} entries")
        for entry in entries:
            check_length(f"member.{name}", entry, MAX_NAME)


def check_address(address: str) -> None:
    """Raises MALFORMED unless it is host:port: what is dialled must not be a path or another scheme."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match.group(2)) <= 65535 or match.group(1).lower() in ("unix", "vsock"):
        raise PacelineError(
            Reason.MALFORMED,
            f"member.address is {address!r}; it must be host:port with a port from 1 to 65535",
            field="address",
            value=address,
        )


def member_to_proto(member: Member) -> router_pb2.Member:
    return router_pb2.Member(
        id=member.member_id,
        role=_ROLE_NUMBERS[member.role],
        name=member.name,
        address=member.address,
        model=member.model,
        tokenizer_hash=member.tokenizer_hash,
        strategies=member.strategies,
        revision=member.revision,
        load=member.load,
        capacity=member.capacity,
        draining=member.draining,
        connected=member.connected,
        own=member.own,
        trial_of=member.trial_of,
        peer=types_pb2.Peer(
            package=member.package,
            version=member.version,
            protocol_major=member.protocol[0],
            protocol_minor=member.protocol[1],
        ),
        work=None if member.work is None else _work_to_proto(member.work),
    )


def verdict_to_proto(verdict: Verdict) -> router_pb2.TrialVerdict:
    return router_pb2.TrialVerdict(
        outcome=_OUTCOMES[verdict.outcome],
        mean_reward=verdict.trial.mean,
        mean_reward_before=verdict.before.mean,
        segments=verdict.trial.segments,
        segments_before=verdict.before.segments,
    )


def prompt_from_proto(request: generation_pb2.GenerateRequest) -> Prompt:
    """What policies may know of a request's prompt. Of a conversation the last message says what it is about."""
    kind = request.WhichOneof("prompt")
    if kind == "messages":
        messages = request.messages.messages
        head = messages[-1].content[:MAX_HEAD] if messages else ""
        return prompt_of(head, sum(len(message.content) for message in messages))
    if kind == "token_ids":
        return prompt_of("", CHARACTERS_PER_TOKEN * len(request.token_ids.ids))
    return prompt_of(request.text[:MAX_HEAD], len(request.text))


def trail_of(request: generation_pb2.GenerateRequest, affinity: Affinity) -> Trail:
    """What affinity knows a request by: nothing, if nothing of it is to be remembered."""
    kind = request.WhichOneof("prompt")
    if request.no_store or kind is None:
        return Trail()
    owner = (request.tenant, request.model, kind)
    if kind == "messages":
        parts = [message(one.role, one.content) for one in request.messages.messages]
        return affinity.trail(owner, parts, conversation=True)
    if kind == "token_ids":
        return affinity.trail(owner, [array("I", request.token_ids.ids).tobytes()])
    return affinity.trail(owner, [request.text.encode()])


def wish_from_proto(message: types_pb2.Speculation) -> Wish:
    return Wish(message.off, tuple(message.drafters), message.max_nodes)


def speculation_to_proto(drafters: Iterable[str], max_nodes: int, shadow: int = 0) -> types_pb2.Speculation:
    """`drafters` by id or name; none is plain decoding (an empty list would mean all to a verifier). shadow: how many
    others may be scored."""
    named = list(drafters)
    return types_pb2.Speculation(off=not named, drafters=named, max_nodes=max_nodes, shadow=shadow)


def shadow_rewards(outcome: generation_pb2.Outcome) -> list[tuple[str, float]]:
    """Ids of drafters that were scored, each with the reward that it would have earned. What can't be is left out, and
    so is what comes beyond what was asked for."""
    found: list[tuple[str, float]] = []
    for score in outcome.shadows[:MAX_SHADOWS]:
        speed = measured_speed(score.tokens, score.verify_s, score.wait_s, score.plain_s)
        if speed is not None:
            found.append((score.drafter_id, reward_of(speed)))
    return found


def attempt_request(
    request: generation_pb2.GenerateRequest,
    model: str,
    relayed: Sequence[int],
    speculation: types_pb2.Speculation,
    segment_tokens: int,
) -> generation_pb2.GenerateRequest:
    """The client's request as one verifier gets it, to go on after the tokens that were relayed."""
    attempt = generation_pb2.GenerateRequest()
    attempt.CopyFrom(request)
    attempt.model = model
    attempt.committed.ids.extend(relayed)
    attempt.speculation.CopyFrom(speculation)
    attempt.segment_tokens = segment_tokens
    return attempt


def arm_to_proto(model: str, report: ArmReport) -> router_pb2.ArmStatus:
    return router_pb2.ArmStatus(
        model=model,
        drafters=report.arm.drafters,
        max_nodes=report.arm.max_nodes,
        pulls=report.pulls,
        mean_reward=report.mean,
        bonus=report.bonus,
    )


def arm_label(message: router_pb2.ArmStatus) -> str:
    """The arm's name for people."""
    return str(Arm(tuple(message.drafters), message.max_nodes))
