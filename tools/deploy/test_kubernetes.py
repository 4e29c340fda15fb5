"""The manifests are what Kubernetes takes, and their parts fit each other. No cluster is asked."""

from __future__ import annotations

import os
from pathlib import Path

import kubernetes_validate
import pytest
from manifests import OVERLAYS, Document, kubectl, pods, raw, rendered
from starts import image_of, service_of

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
FOLDER = ROOT / "tools/deploy/kubernetes"
VERSIONS = ("1.30", kubernetes_validate.latest_version())
needs_kubectl = pytest.mark.skipif(kubectl() is None, reason="kubectl is not on PATH")


@pytest.fixture(scope="module", params=OVERLAYS)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Document]:
    return rendered(FOLDER, str(request.param), tmp_path_factory.mktemp("manifests"))


def named(document: Document) -> str:
    return f"{document['kind']} {document['metadata']['name']}"


def labels_of(found: list[Document]) -> list[dict[str, str]]:
    return [document["spec"]["template"]["metadata"]["labels"] for document, _ in pods(found)]


def selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


def test_every_overlay_is_looked_at() -> None:
    assert sorted(path.name for path in (FOLDER / "overlays").iterdir()) == sorted(OVERLAYS)


@needs_kubectl
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_what_is_rendered(found: list[Document], version: str) -> None:
    assert found
    for document in found:
        kubernetes_validate.validate(document, version, strict=True)


def test_kubernetes_takes_the_files_of_the_base() -> None:
    """Without kubectl, too: only the labels are missing, which kustomize puts in."""
    documents = list(raw(FOLDER / "base"))
    assert len(documents) > 15
    for path, document in documents:
        if document["kind"] == "StatefulSet":
            document["spec"].setdefault("selector", {"matchLabels": {"app": path.parent.name}})
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


def test_the_schema_would_notice_a_mistake() -> None:
    document = next(document for _, document in raw(FOLDER / "base") if document["kind"] == "Deployment")
    document["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(document, VERSIONS[-1], strict=True)


@needs_kubectl
def test_pods_are_nobodys_and_powerless(found: list[Document]) -> None:
    for document, pod in pods(found):
        name = named(document)
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["enableServiceLinks"] is False, name  # they would become PACELINE_… variables
        assert pod["serviceAccountName"] == "paceline", name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            expected = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["securityContext"] == expected, name
            assert {"cpu", "memory"} <= set(container["resources"]["limits"]), name
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), name


@needs_kubectl
def test_what_is_mounted_is_there_and_volumes_of_an_image_are_mounted(found: list[Document]) -> None:
    for document, pod in pods(found):
        claims = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", ())}
        volumes = claims | {volume["name"] for volume in pod.get("volumes", ())}
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes, named(document)
        package = service_of(container["image"])
        if package is not None:
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert {*image_of(ROOT, package).only("VOLUME").exec_form, "/tmp"} <= mounted, named(document)


@needs_kubectl
def test_services_are_probed_on_the_port_they_have(found: list[Document]) -> None:
    for document, pod in pods(found):
        (container,) = pod["containers"]
        if service_of(container["image"]) is None:
            continue
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]
            asked = probe["exec"]["command"][:2] if "exec" in probe else probe["grpc"]
            by_command = ["paceline-health", f"127.0.0.1:{ports['grpc']}"]
            assert asked in (by_command, {"port": ports["grpc"]}), named(document)


@needs_kubectl
def test_selectors_select_and_ports_are_there(found: list[Document]) -> None:
    templates = labels_of(found)
    ports = {port["containerPort"] for _, pod in pods(found) for one in pod["containers"] for port in one["ports"]}
    for document in found:
        spec = document.get("spec", {})
        if document["kind"] == "Service":
            assert any(selects(spec["selector"], labels) for labels in templates), named(document)
            assert {port["port"] for port in spec["ports"]} <= ports, named(document)
        elif document["kind"] == "PodDisruptionBudget":
            assert any(selects(spec["selector"]["matchLabels"], labels) for labels in templates), named(document)
        elif document["kind"] == "NetworkPolicy":
            assert any(selects(spec["podSelector"].get("matchLabels", {}), labels) for labels in templates)
            heard = {port["port"] for rule in spec.get("ingress", ()) for port in rule["ports"]}
            assert heard <= ports, named(document)
        elif document["kind"] in ("StatefulSet", "Deployment"):
            selector = spec["selector"]["matchLabels"]
            assert sum(selects(selector, labels) for labels in templates) == 1, named(document)


@needs_kubectl
def test_every_pod_has_a_budget_and_a_policy_and_every_secret_is_somebody_elses(found: list[Document]) -> None:
    for labels in labels_of(found):
        for kind in ("PodDisruptionBudget", "NetworkPolicy"):
            key = "selector" if kind == "PodDisruptionBudget" else "podSelector"
            selectors = [item["spec"][key].get("matchLabels") for item in found if item["kind"] == kind]
            assert any(selector and selects(selector, labels) for selector in selectors), (kind, labels)
    assert not [named(document) for document in found if document["kind"] == "Secret"]


@needs_kubectl
def test_members_announce_to_every_router(found: list[Document]) -> None:
    routers = [document for document, _ in pods(found) if document["metadata"]["name"] == "paceline-router"]
    (members,) = (document for document in found if document["kind"] == "ConfigMap")
    addresses = members["data"]["PACELINE_ROUTER"].split(",")
    if not routers:  # at the edge they are elsewhere
        return
    (router,) = routers
    host = router["spec"]["serviceName"]
    expected = [f"paceline-router-{index}.{host}:7700" for index in range(router["spec"]["replicas"])]
    assert addresses == expected


@needs_kubectl
def test_an_autoscaler_scales_what_is_there(found: list[Document]) -> None:
    workloads = {(document["kind"], document["metadata"]["name"]): document for document, _ in pods(found)}
    for document in found:
        if document["kind"] == "HorizontalPodAutoscaler":
            target = document["spec"]["scaleTargetRef"]
            workload = workloads[target["kind"], target["name"]]
            assert "replicas" not in workload["spec"], "two would set it"
