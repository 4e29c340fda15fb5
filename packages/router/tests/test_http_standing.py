"""How things stand, over HTTP: what GetStatus says over gRPC, and the history that the router writes meanwhile."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Deploy, Deployment, eventually
from http_doors import asked
from token_files import ADMIN, ALICE, ALL, MEMBER, tenants, write_tokens

from paceline.router.chronicle import Chronicle
from paceline.router.member import Member, Role
from paceline.router.reward import speed_of
from paceline.router.trials import Outcome
from paceline.v1 import router_pb2
from paceline.wire.version import PROTOCOL_MAJOR, PROTOCOL_MINOR


async def got(deployment: Deployment, path: str) -> Any:
    reply = await asked(deployment, "GET", path)
    assert reply.status == 200, reply.body
    return reply.json


async def finished(deployment: Deployment, count: int) -> None:
    for seed in range(count):
        async for _ in deployment.generate(seed=seed):
            pass


async def test_the_status_is_that_of_grpc(deploy: Deploy) -> None:
    deployment = await deploy(http="127.0.0.1:0", policy="ucb")
    await deployment.verifier("v", drafters={"d-1": "suffix"})
    await finished(deployment, 3)
    told, status = (
        await deployment.stub.GetStatus(router_pb2.GetStatusRequest()),
        await got(deployment, "/paceline/status"),
    )
    assert status["version"] == told.peer.version
    assert status["protocol"] == f"{PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"
    assert 0.0 <= status["uptime_s"] < 60.0
    assert (status["policy"], status["active_requests"], status["finished_requests"]) == ("ucb", 0, 3)
    shown = ("id", "name", "address", "model", "revision", "load", "capacity", "draining", "own", "trial_of")
    assert len(status["members"]) == 2
    for member, expected in zip(status["members"], told.members, strict=True):
        assert member["role"] == router_pb2.Role.Name(expected.role).removeprefix("ROLE_").lower()
        assert {name: member[name] for name in shown} == {name: getattr(expected, name) for name in shown}
        assert member["connected"] == list(expected.connected)
        assert member["strategies"] == list(expected.strategies)
    assert [arm["drafters"] for arm in status["arms"]] == [[], ["suffix"]]
    for arm, believed in zip(status["arms"], told.arms, strict=True):
        assert (arm["model"], arm["max_nodes"]) == ("m", 0)
        assert arm["pulls"] == pytest.approx(believed.pulls)
        assert arm["speed"] == pytest.approx(believed.mean_reward), "gRPC's field has the speed"
        assert arm["bonus"] == pytest.approx(believed.bonus)
        assert arm["speed"] == pytest.approx(speed_of(arm["mean_reward"]))
    assert status["arms"][1]["speed"] == pytest.approx(2.0)


async def test_an_arm_that_must_be_tried_first_has_no_bonus_that_json_could_say(deploy: Deploy) -> None:
    deployment = await deploy(http="127.0.0.1:0", policy="ucb")
    await deployment.verifier("v", drafters={"d-1": "suffix"})
    arms = (await got(deployment, "/paceline/status"))["arms"]
    assert [(arm["pulls"], arm["mean_reward"], arm["speed"], arm["bonus"]) for arm in arms] == [(0, 0, 0, None)] * 2


async def test_the_history_is_written_while_the_router_runs(deploy: Deploy) -> None:
    deployment = await deploy(http="127.0.0.1:0", policy="ucb")
    router = deployment.router
    router.chronicle.close()
    began_s = time.time()
    chronicle = Chronicle(router.backend, time.time, look_s=0.005, point_s=0.01)
    chronicle.start()
    await deployment.verifier("v", drafters={"d-1": "suffix"})
    await finished(deployment, 2)
    points = len(router.backend.history.times_s)
    await eventually(lambda: len(router.backend.history.times_s) > points + 1)
    router.backend.trials.failed("d-1~trial")
    router.backend.roster.withdraw(Role.DRAFTER, "d-1")
    await eventually(lambda: router.backend.history.events[-1].kind == "left")
    chronicle.close()
    history = await got(deployment, "/paceline/history")
    assert [event["kind"] for event in history["events"]][-2:] == ["verdict", "left"]
    assert {(event["kind"], event["role"], event["name"]) for event in history["events"]} >= {
        ("came", "verifier", "v"),
        ("came", "drafter", "suffix"),
        ("left", "drafter", "suffix"),
    }
    assert next(event["after"] for event in history["events"] if event["kind"] == "verdict") == Outcome.WORSE.value
    assert began_s - 1 < history["times_s"][0] <= history["times_s"][-1] <= history["now_s"] + 0.1
    series = {tuple(arm["drafters"]): arm for arm in history["arms"]}
    assert set(series) == {(), ("suffix",)}
    for arm in series.values():
        assert len(arm["speed"]) == len(arm["pulls"]) == len(history["times_s"])
    assert max(speed for speed in series[("suffix",)]["speed"] if speed is not None) == pytest.approx(2.0)


async def test_without_a_door_nobody_writes_a_history(deploy: Deploy) -> None:
    deployment = await deploy()
    deployment.router.backend.roster.announce(Member("d", Role.DRAFTER, name="d"))
    await asyncio.sleep(0)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "chronicle"]


async def test_the_status_is_for_members_and_admins_as_over_grpc(deploy: Deploy, tmp_path: Path) -> None:
    deployment = await deploy(token_file=write_tokens(tmp_path / "tokens.yaml", tenants()), http="127.0.0.1:0")
    for path in ("/paceline/status", "/paceline/history"):
        assert (await asked(deployment, "GET", path)).status == 401
        for token, status in ((ALICE, 403), (MEMBER, 200), (ADMIN, 200), (ALL, 200)):
            assert (await asked(deployment, "GET", path, authorization=f"Bearer {token}")).status == status, token
