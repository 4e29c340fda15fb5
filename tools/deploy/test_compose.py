"""compose.yaml is one that Compose takes, and what it names is there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from starts import compose, image_of, service_of

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
FOLDER = ROOT / "tools/deploy"
FILES = ("compose.yaml", "compose.gpu.yaml")


def validated(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def composed() -> dict[str, Any]:
    return compose(FOLDER / "compose.yaml")


@pytest.mark.parametrize("name", FILES)
def test_it_fits_the_schema_of_the_compose_specification(name: str) -> None:
    done = validated(FOLDER / name)
    assert done.returncode == 0, done.stdout


def test_the_schema_would_notice_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text((FOLDER / "compose.yaml").read_text().replace("stop_grace_period", "stop_grace_periods"))
    done = validated(path)
    assert done.returncode != 0
    assert "stop_grace_periods" in done.stdout


def test_what_services_name_is_declared(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        assert set(service["networks"]) <= set(composed["networks"]), name
        assert set(service.get("secrets", ())) <= set(composed["secrets"]), name
        assert set(service.get("depends_on", {})) <= set(composed["services"]), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in composed["volumes"] or (FOLDER / source).exists(), volume


def test_every_service_is_bounded_read_only_powerless_and_asked_for_its_health(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        if (package := service_of(service["image"])) is None:
            assert "healthcheck" in service, name
        else:
            assert image_of(ROOT, package).health, name
            dockerfile = FOLDER / service["build"]["context"] / service["build"]["dockerfile"]
            assert dockerfile.resolve() == (ROOT / "packages" / package / "Dockerfile").resolve(), name


def test_nothing_is_published_beyond_this_machine(composed: dict[str, Any]) -> None:
    published = [port for service in composed["services"].values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_image_of_a_variant_is_built_with_arguments_that_exist() -> None:
    over = compose(FOLDER / "compose.gpu.yaml")["services"]["verifier"]
    known = {
        line.rest.partition("=")[0]
        for stage in image_of(ROOT, "verifier").stages
        for line in stage
        if line.name == "ARG"
    }
    assert set(over["build"]["args"]) <= known
    assert (ROOT / "tools/locks" / f"{over['build']['args']['LOCK']}.lock").exists()


def test_prometheus_asks_ports_that_are_there(composed: dict[str, Any]) -> None:
    config = yaml.safe_load((FOLDER / "prometheus/prometheus.yml").read_text())
    targets = [
        target for job in config["scrape_configs"] for static in job["static_configs"] for target in static["targets"]
    ]
    assert targets
    for target in targets:
        name, _, port = target.partition(":")
        package = service_of(composed["services"][name]["image"])
        assert package is not None
        assert port in image_of(ROOT, package).only("EXPOSE").rest.split(), target
