"""Kubernetes' manifests: rendered by kubectl, which needs no cluster for that, or as they lie in the files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Document = dict[str, Any]
OVERLAYS = ("cpu", "edge", "gpu", "tls")
WORKLOADS = ("StatefulSet", "Deployment")


def kubectl() -> str | None:
    return shutil.which("kubectl")


def rendered(folder: Path, overlay: str, scratch: Path) -> list[Document]:
    """What `kubectl apply -k FOLDER/overlays/OVERLAY` would send.

    A copy is rendered: a test's files are links, and kubectl reads none that lead out of a folder.
    """
    program = kubectl()
    assert program is not None
    copy = shutil.copytree(folder, scratch / "kubernetes")
    command = [program, "kustomize", str(copy / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return documents(done.stdout)


def documents(text: str) -> list[Document]:
    return [document for document in yaml.safe_load_all(text) if document]


def raw(folder: Path) -> Iterator[tuple[Path, Document]]:
    """The resources in a folder's files, as kustomize finds them, with the file each is in."""
    for path in sorted(folder.rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            for document in documents(path.read_text()):
                yield path, document


def pods(found: list[Document]) -> Iterator[tuple[Document, Document]]:
    """Each workload with the spec of its pods."""
    for document in found:
        if document["kind"] in WORKLOADS:
            yield document, document["spec"]["template"]["spec"]


def variables(container: Document, found: list[Document]) -> dict[str, str]:
    """The environment of a container: values, and those from ConfigMaps among the documents."""
    maps = {document["metadata"]["name"]: document["data"] for document in found if document["kind"] == "ConfigMap"}
    values: dict[str, str] = {}
    for entry in container.get("env", []):
        source = entry.get("valueFrom", {})
        if "configMapKeyRef" in source:
            reference = source["configMapKeyRef"]
            values[entry["name"]] = maps[reference["name"]][reference["key"]]
        elif "fieldRef" in source:
            values[entry["name"]] = "some-pod-0"
        else:
            values[entry["name"]] = entry["value"]
    return values


def expanded(words: list[str], values: dict[str, str]) -> list[str]:
    """As Kubernetes does: $(NAME) in arguments."""
    for name, value in values.items():
        words = [word.replace(f"$({name})", value) for word in words]
    return words
