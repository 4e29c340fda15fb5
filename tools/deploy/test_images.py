"""What a Dockerfile says fits what is in the checkout.

No engine builds an image here; tools/e2e/test_image_commands.py runs what an image would run.
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from dockerfiles import Dockerfile, DockerfileError, read_dockerfile
from starts import SERVICES, image_of

from paceline.drafter.version import VERSION as DRAFTER
from paceline.router.version import VERSION as ROUTER
from paceline.trainer.version import VERSION as TRAINER
from paceline.verifier.version import VERSION as VERIFIER

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
IMAGE = re.compile(r"\bpaceline-(\w+):(\d+\.\d+\.\d+)")
VERSIONS = {"drafter": DRAFTER, "router": ROUTER, "trainer": TRAINER, "verifier": VERIFIER}


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def image(service: str) -> Dockerfile:
    return image_of(ROOT, service)


def project(package: str) -> dict[str, object]:
    loaded: dict[str, object] = tomllib.loads((ROOT / package / "pyproject.toml").read_text())["project"]
    return loaded


def test_what_is_copied_exists_and_is_not_ignored(image: Dockerfile) -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copies = [instruction.rest.split() for instruction in image.stages[0] if instruction.name == "COPY"]
    assert copies
    for *sources, _target in copies:
        for source in sources:
            assert (ROOT / source).exists(), source
            assert source.partition("/")[0] in allowed, source


def test_extras_lock_and_programs_exist(service: str, image: Dockerfile) -> None:
    package, _, lock, folder = image.installed
    assert (package, folder) == (service, "/opt/paceline")
    own, protos = project(f"packages/{service}"), project("protos")
    assert set(image.extras) <= set(own.get("optional-dependencies", {}))  # type: ignore[call-overload]
    assert (ROOT / "tools/locks" / f"{lock}.lock").exists()
    assert image.start[0] in own["scripts"]  # type: ignore[operator]
    assert image.health[0] in protos["scripts"]  # type: ignore[operator]


def test_it_runs_as_nobody_and_signals_reach_it(service: str, image: Dockerfile) -> None:
    assert image.start == [f"paceline-{service}", "serve"]
    user, _, group = image.only("USER").rest.partition(":")
    assert min(int(user), int(group)) > 0
    assert image.only("STOPSIGNAL").rest == "SIGTERM"


def test_health_is_asked_where_it_listens_and_ports_are_shown(image: Dockerfile) -> None:
    _, port = image.variables["PACELINE_LISTEN"].split(":")
    assert image.health == ["paceline-health", f"127.0.0.1:{port}"]
    shown = set(image.only("EXPOSE").rest.split())
    addresses = ("PACELINE_LISTEN", "PACELINE_HTTP", "PACELINE_METRICS_LISTEN")
    assert shown == {image.variables[name].rpartition(":")[2] for name in addresses if name in image.variables}


def test_what_is_written_goes_to_volumes(image: Dockerfile) -> None:
    volumes = tuple(image.only("VOLUME").exec_form)
    folders = ("HOME", "XDG_CACHE_HOME", "HF_HOME", "PACELINE_DATA", "PACELINE_REVISION_CACHE")
    assert all(image.variables[name].startswith(volumes) for name in folders if name in image.variables)


def test_its_version_is_the_packages(service: str, image: Dockerfile) -> None:
    assert image.labels["org.opencontainers.image.version"] == VERSIONS[service]
    assert f"-t paceline-{service}:{VERSIONS[service]} " in image.path.read_text()


def test_whoever_names_an_image_means_this_version() -> None:
    paths = [*(ROOT / "tools/deploy").rglob("*.yaml"), ROOT / "docs/deploying.md"]
    named = {found.groups() for path in paths for found in IMAGE.finditer(path.read_text())}
    assert named == set(VERSIONS.items())


def test_every_stage_is_from_the_same_image_which_may_be_given(image: Dockerfile) -> None:
    assert [instruction.rest.split("=")[0] for instruction in image.head] == ["PYTHON_IMAGE"]
    assert {stage[0].rest.split()[0] for stage in image.stages} == {"${PYTHON_IMAGE}"}


def test_the_script_that_installs_is_one_that_a_shell_takes() -> None:
    subprocess.run(["sh", "-n", str(ROOT / "tools/deploy/install.sh")], check=True)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ENTRYPOINT paceline-router\n", "must be a JSON list"),
        ("", "0 x ENTRYPOINT"),
        ('ENTRYPOINT ["a"]\nENTRYPOINT ["b"]\n', "2 x ENTRYPOINT"),
    ],
)
def test_what_would_keep_signals_from_a_process_is_noticed(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text(f'FROM scratch\n{text}CMD ["serve"]\n')
    with pytest.raises(DockerfileError, match=says):
        _ = read_dockerfile(path).start
