"""How images, units, compose files and manifests start each service, as one kind of value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from dockerfiles import Dockerfile, read_dockerfile
from manifests import Document, expanded, pods, variables
from units import read_unit

SERVICES = ("drafter", "router", "trainer", "verifier")
_DEFAULT = re.compile(r"\$\{\w+(?::-([^}]*))?\}")
_SECONDS = re.compile(r"(\d+)(s|min)?")


@dataclass(frozen=True)
class Start:
    """One way in which one service is started.

    Attributes:
        where: the file, for people.
        service: router, verifier, ….
        arguments: after the program's name.
        variables: the whole environment that the file gives it, an image's included.
        stop_s: seconds between SIGTERM and SIGKILL; None if the file doesn't say.
        health: command that asks whether it serves; empty if something else asks, or nothing.
    """

    where: str
    service: str
    arguments: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)
    stop_s: float | None = None
    health: tuple[str, ...] = ()


def image_of(root: Path, service: str) -> Dockerfile:
    return read_dockerfile(root / "packages" / service / "Dockerfile")


def in_images(root: Path) -> Iterator[Start]:
    for service in SERVICES:
        image = image_of(root, service)
        yield Start(
            f"packages/{service}/Dockerfile",
            service,
            tuple(image.start[1:]),
            image.variables,
            health=tuple(image.health),
        )


def in_units(root: Path) -> Iterator[Start]:
    dropin = read_unit(root / "tools/deploy/systemd/tls.conf")
    for service in SERVICES:
        path = root / "packages" / service / f"paceline-{service}.service"
        unit = read_unit(path)
        stop_s = seconds(unit.one("TimeoutStopSec"))
        arguments = tuple(unit.start[1:])
        yield Start(path.name, service, arguments, unit.variables, stop_s)
        yield Start(f"{path.name} with tls.conf", service, arguments, {**unit.variables, **dropin.variables}, stop_s)


def in_compose(root: Path) -> Iterator[Start]:
    """What compose.yaml starts, and what compose.gpu.yaml makes of it."""
    composed = compose(root / "tools/deploy/compose.yaml")
    over = compose(root / "tools/deploy/compose.gpu.yaml")["services"]
    for name, service in composed["services"].items():
        package = service_of(service["image"])
        if package is None:
            continue
        image = image_of(root, package)
        environment = {**image.variables, **service.get("environment", {})}
        arguments, stop_s = tuple(service["command"]), seconds(service["stop_grace_period"])
        yield Start(f"compose.yaml: {name}", package, arguments, environment, stop_s)
        if name in over:
            more = {**environment, **over[name].get("environment", {})}
            yield Start(f"compose.gpu.yaml: {name}", package, arguments, more, stop_s)


def in_manifests(root: Path, overlay: str, found: list[Document]) -> Iterator[Start]:
    for document, pod in pods(found):
        (container,) = pod["containers"]
        package = service_of(container["image"])
        if package is None:
            continue
        values = variables(container, found)
        health = container["readinessProbe"].get("exec", {}).get("command", ())
        hook = container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["sleep", "0"])
        yield Start(
            f"{overlay}: {document['metadata']['name']}",
            package,
            tuple(expanded(container["args"], values)),
            {**image_of(root, package).variables, **values},
            pod["terminationGracePeriodSeconds"] - float(hook[1]),
            tuple(health),
        )


def compose(path: Path) -> dict[str, Any]:
    """A compose file, with variables at their defaults."""
    text = _DEFAULT.sub(lambda found: found[1] or "", path.read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def service_of(image: str) -> str | None:
    """Which service an image is of; None for other people's."""
    name = image.partition(":")[0].rpartition("/")[2].removeprefix("paceline-")
    return name if name in SERVICES else None


def seconds(text: str) -> float:
    found = _SECONDS.fullmatch(text)
    assert found is not None, text
    return float(found[1]) * (60 if found[2] == "min" else 1)
