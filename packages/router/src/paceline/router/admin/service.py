"""The Admin service: check, call, map, reply."""

from __future__ import annotations

import grpc
import grpc.aio
import structlog

from paceline.router import convert
from paceline.router.access.access import TokenAccess
from paceline.router.access.quota import Quota
from paceline.router.backend import Backend
from paceline.router.checks import MAX_NAME, check_length
from paceline.router.member import Member, Role
from paceline.router.state.base import StoreError
from paceline.v1 import admin_pb2, admin_pb2_grpc, router_pb2
from paceline.wire.errors import PacelineError, Reason

log = structlog.get_logger()

LISTED = 20  # members that an error names


class AdminService(admin_pb2_grpc.AdminServicer):
    """See admin.proto.

    Args:
        backend: shared parts.
        tokens: who may call, if there is a token file.
    """

    def __init__(self, backend: Backend, tokens: TokenAccess | None) -> None:
        self._roster = backend.roster
        self._learning = backend.learner
        self._tokens = tokens

    async def Drain(
        self, request: admin_pb2.DrainMemberRequest, context: grpc.aio.ServicerContext
    ) -> admin_pb2.DrainMemberResponse:
        member = self._member(request.id, request.role)
        if member.role is Role.TRAINER:
            why = f"{member.member_id!r} is a trainer, and a router gives those nothing to do; withdraw it instead"
            raise PacelineError(Reason.MALFORMED, why, field="id", value=member.member_id)
        self._roster.drain(member.role, member.member_id, request.undo)
        log.info("drain", role=member.role.value, member=member.member_id, undo=request.undo)
        running = self._roster.running(member.member_id) if member.role is Role.VERIFIER else 0
        now = self._member(member.member_id, convert.role_to_proto(member.role))
        return admin_pb2.DrainMemberResponse(member=convert.member_to_proto(now), running=running)

    async def Withdraw(
        self, request: admin_pb2.WithdrawMemberRequest, context: grpc.aio.ServicerContext
    ) -> admin_pb2.WithdrawMemberResponse:
        role = self._withdrawn(request) if request.undo else self._member(request.id, request.role).role
        self._roster.bar(role, request.id, request.undo)
        log.info("withdraw", role=role.value, member=request.id, undo=request.undo)
        return admin_pb2.WithdrawMemberResponse(role=convert.role_to_proto(role))

    async def SetPolicy(
        self, request: admin_pb2.SetPolicyRequest, context: grpc.aio.ServicerContext
    ) -> admin_pb2.SetPolicyResponse:
        check_length("policy", request.policy, MAX_NAME)
        if request.policy not in self._learning.policies:
            known = ", ".join(self._learning.policies)
            raise PacelineError(
                Reason.UNKNOWN_POLICY,
                f"policy is {request.policy!r}; there are: {known}",
                field="policy",
                value=request.policy,
                limit=known,
            )
        try:
            before = await self._learning.change(request.policy)
        except StoreError as error:
            why = f"the store can't be read for another policy, so {self._learning.name} stays: {error}"
            raise PacelineError(Reason.OVERLOADED, why, field="policy", retry_after_s=1.0) from error
        return admin_pb2.SetPolicyResponse(before=before, policy=self._learning.name)

    async def ListTenants(
        self, request: admin_pb2.ListTenantsRequest, context: grpc.aio.ServicerContext
    ) -> admin_pb2.ListTenantsResponse:
        usage = self._tokens.usage() if self._tokens is not None else []
        return admin_pb2.ListTenantsResponse(tenants=[_tenant(*one) for one in usage])

    def _member(self, member_id: str, role: router_pb2.Role) -> Member:
        """Who is registered by this id. Raises UNKNOWN_MEMBER, or MALFORMED if several are."""
        found = [member for member in self._registered(role) if member.member_id == member_id]
        if len(found) == 1:
            return found[0]
        if found:
            raise _ambiguous(member_id)
        known = [f"{member.role.value} {member.member_id}" for member in self._registered(router_pb2.ROLE_UNSPECIFIED)]
        raise _unknown(member_id, "registered", known)

    def _registered(self, role: router_pb2.Role) -> list[Member]:
        roles = [convert.role_from_proto(role)] if role else list(Role)
        return [member for one in roles for member in self._roster.members(one)]

    def _withdrawn(self, request: admin_pb2.WithdrawMemberRequest) -> Role:
        """The role of who was withdrawn by this id; the same errors."""
        orders = self._roster.orders.all_withdrawn()
        wanted = convert.role_from_proto(request.role) if request.role else None
        found = [key for key in orders if key[1] == request.id and wanted in (None, key[0])]
        if len(found) == 1:
            return found[0][0]
        if found:
            raise _ambiguous(request.id)
        raise _unknown(request.id, "withdrawn", [f"{role.value} {member_id}" for role, member_id in orders])


def _ambiguous(member_id: str) -> PacelineError:
    why = f"{member_id[:MAX_NAME]!r} is the id of members of several roles; say which role is meant"
    return PacelineError(Reason.MALFORMED, why, field="role")


def _unknown(member_id: str, what: str, known: list[str]) -> PacelineError:
    more = f" and {len(known) - LISTED} more" if len(known) > LISTED else ""
    listed = ", ".join(known[:LISTED]) + more if known else "nobody"
    shown = member_id[:MAX_NAME]
    return PacelineError(
        Reason.UNKNOWN_MEMBER, f"nobody by the id {shown!r} is {what}; there is: {listed}", field="id", value=shown
    )


def _tenant(quota: Quota, valid: int, expired: int) -> admin_pb2.TenantStatus:
    limits = quota.limits
    return admin_pb2.TenantStatus(
        tenant=quota.tenant,
        valid_tokens=valid,
        expired_tokens=expired,
        requests_at_once=limits.requests_at_once or 0,
        requests_per_minute=limits.requests_per_minute or 0,
        tokens_per_minute=limits.tokens_per_minute or 0,
        prompt_bytes=limits.prompt_bytes or 0,
        prompt_tokens=limits.prompt_tokens or 0,
        max_tokens=limits.max_tokens or 0,
        running=quota.running,
        requests=quota.num_requests,
        refused=quota.num_refused,
        generated_tokens=quota.num_tokens,
    )
