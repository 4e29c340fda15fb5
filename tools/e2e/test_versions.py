"""Two released versions side by side: each service of the release before works with each of today's.

Two routers, two verifiers, two drafters and two trainers, one of each from the wheels that tools/releases keeps and one
from this tree. Everybody announces to both routers, and drafters dial both verifiers, whose model has a name for each,
so that a request says where it goes.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from clean_environment import Environment, make_environment
from tiny_target import make_tiny_target

from paceline.cli.measure import Answer, ask
from paceline.cli.stack import Service, Stack
from paceline.drafter.version import VERSION as DRAFTER_VERSION
from paceline.router.version import VERSION as ROUTER_VERSION
from paceline.trainer.version import VERSION as TRAINER_VERSION
from paceline.v1 import generation_pb2, router_pb2, router_pb2_grpc, trainer_pb2, trainer_pb2_grpc, types_pb2
from paceline.verifier.version import VERSION as VERIFIER_VERSION
from paceline.wire.channel import connect
from paceline.wire.settings import ClientSettings

RELEASES = Path(os.environ["RUNFILES_DIR"]) / "paceline" / "tools" / "releases"
SERVICES = {
    "drafter": DRAFTER_VERSION,
    "router": ROUTER_VERSION,
    "trainer": TRAINER_VERSION,
    "verifier": VERIFIER_VERSION,
}
OLD, NEW = "old", "new"
DEADLINE_S = 120.0
LOOPBACK = "127.0.0.1:0"


def newest_release() -> Path:
    folders = [path for path in RELEASES.iterdir() if path.is_dir()]
    return max(folders, key=lambda path: [int(part) for part in path.name.split(".")])


@dataclass(frozen=True)
class Deployment:
    """Services are named by what they are and how old: router-old, verifier-new."""

    stack: Stack
    release: str

    def address(self, name: str) -> str:
        return self.stack.services[name].address


def start_released(stack: Stack, environment: Environment, package: str, *arguments: str) -> None:
    """As `Stack.start`, with the released program and nothing of this tree."""
    name = f"{package}-{OLD}"
    ready_file, log = stack.folder / f"{name}.ready", stack.folder / f"{name}.log"
    script = str(environment.folder / "bin" / f"paceline-{package}")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [script, "serve", "--listen", LOOPBACK, "--ready-file", str(ready_file), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**environment.variables, "HF_HUB_OFFLINE": "1"},
            cwd=stack.folder,
        )
    stack.services[name] = Service(name, process, log, ready_file)


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    folder = tmp_path_factory.mktemp("versions")
    release = newest_release()
    environment = make_environment(folder / "released", sorted(release.glob("*.whl")))
    model = make_tiny_target(folder / "model")
    with Stack(folder / "stack") as stack:

        def start(package: str, old: tuple[str, ...], new: tuple[str, ...], *both: str) -> None:
            start_released(stack, environment, package, *old, *both)
            stack.start(f"{package}-{NEW}", package, *new, *both)

        start("router", (), (), "--state", "memory:", "--policy", "fixed")
        stack.wait()
        routers = ",".join(stack.services[f"router-{age}"].address for age in (OLD, NEW))
        data = {age: ("--data", str(folder / f"lessons-{age}")) for age in (OLD, NEW)}
        start("trainer", data[OLD], data[NEW], "--router", routers)
        stack.wait()
        # Each verifier sends its lessons to the trainer of the other version.
        trainers = {age: ("--trainer", stack.services[f"trainer-{age}"].address) for age in (OLD, NEW)}
        names = {age: ("--model-name", age) for age in (OLD, NEW)}
        target = ("--model", str(model), "--drafting", "always", "--router", routers)
        start("verifier", (*names[OLD], *trainers[NEW]), (*names[NEW], *trainers[OLD]), *target)
        identity = {age: ("--drafter-id", f"drafter-{age}", "--name", f"drafter-{age}") for age in (OLD, NEW)}
        start("drafter", identity[OLD], identity[NEW], "--strategies", "suffix", "--router", routers)
        stack.wait()
        for age in (OLD, NEW):
            drafters = [f"drafter-{age}" for age in (OLD, NEW)]
            stack.wait_connected(stack.services[f"router-{age}"].address, drafters, verifiers=2)
        yield Deployment(stack, release.name)


def answer_of(deployment: Deployment, router: str, verifier: str, drafter: str | None, temperature: float) -> Answer:
    speculation = types_pb2.Speculation(off=drafter is None, drafters=[f"drafter-{drafter}"] if drafter else [])
    request = generation_pb2.GenerateRequest(
        model=verifier,
        text="the quick brown fox jumps over the quick brown fox jumps over the",
        sampling=types_pb2.Sampling(temperature=temperature, seed=5),
        limits=types_pb2.Limits(max_tokens=96, ignore_eos=True),
        speculation=speculation,
    )

    async def asked() -> Answer:
        async with connect(deployment.address(f"router-{router}"), ClientSettings()) as channel:
            return await ask(router_pb2_grpc.RouterStub(channel), request)

    return asyncio.run(asyncio.wait_for(asked(), DEADLINE_S))


def test_what_is_kept_is_what_was_released() -> None:
    folder = newest_release()
    sums = dict(line.split()[::-1] for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums == {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.whl")}
    assert len(sums) == len(SERVICES) + 1


def test_both_versions_are_there(deployment: Deployment) -> None:
    assert set(SERVICES.values()).isdisjoint({deployment.release}), "a release is compared with itself"
    for router in (OLD, NEW):
        with grpc.insecure_channel(deployment.address(f"router-{router}")) as channel:
            members = router_pb2_grpc.RouterStub(channel).GetStatus(router_pb2.GetStatusRequest(), timeout=10).members
        found = sorted((member.peer.package, member.peer.version) for member in members)
        announced = [service for service in SERVICES if service != "router"]  # it announces itself to nobody
        versions = [
            (f"paceline-{name}", version) for name in announced for version in (deployment.release, SERVICES[name])
        ]
        assert found == versions


@pytest.mark.parametrize(
    ("router", "verifier", "drafter"), [ages for ages in itertools.product((OLD, NEW), repeat=3) if len({*ages}) > 1]
)
def test_drafts_are_accepted_and_the_text_is_that_without(
    deployment: Deployment, router: str, verifier: str, drafter: str
) -> None:
    for temperature in (0.0, 0.8):
        plain = answer_of(deployment, router, verifier, None, temperature)
        drafted = answer_of(deployment, router, verifier, drafter, temperature)
        assert len(plain.ids) == 96
        assert not plain.drafters
        assert (drafted.ids, drafted.text) == (plain.ids, plain.text)
        assert list(drafted.drafters) == [f"drafter-{drafter}"]
        proposed, accepted = drafted.drafters[f"drafter-{drafter}"]
        print(f"router {router}, verifier {verifier}, drafter {drafter}, T {temperature}: {accepted} of {proposed}")
        if temperature == 0.0:  # the tiny model repeats itself
            assert accepted > 0
            assert drafted.steps < plain.steps


@pytest.mark.parametrize(("verifier", "trainer"), [(OLD, NEW), (NEW, OLD)])
def test_lessons_arrive(deployment: Deployment, verifier: str, trainer: str) -> None:
    answer_of(deployment, NEW, verifier, "new", 0.0)

    async def arrived() -> None:
        async with connect(deployment.address(f"trainer-{trainer}"), ClientSettings()) as channel:
            stub = trainer_pb2_grpc.TrainerStub(channel)
            async with asyncio.timeout(DEADLINE_S):
                while not (await stub.GetReplay(trainer_pb2.GetReplayRequest())).lessons:
                    await asyncio.sleep(0.05)

    asyncio.run(arrived())
