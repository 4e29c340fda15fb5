"""A clean environment has what wheels declare, and only that."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest
from clean_environment import Environment, UnmetRequirementError, closure, make_environment

MODULE = "def main():\n    print('here')\n    return 3\n"


def wheel_of(folder: Path, name: str, *requirements: str) -> Path:
    """A wheel with one module and one console script, both called `name`."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *(f"Requires-Dist: {r}" for r in requirements)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", MODULE)
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{info}/entry_points.txt", f"[console_scripts]\nrun-{name} = {name}:main\n")
    return path


def can_import(environment: Environment, *modules: str) -> list[bool]:
    def works(module: str) -> bool:
        command = [str(environment.python), "-c", f"import {module}"]
        return subprocess.run(command, env=environment.variables, capture_output=True, check=False).returncode == 0

    return [works(module) for module in modules]


def test_what_is_declared_works_and_what_is_not_is_missing(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "clean", [wheel_of(tmp_path, "alone", "grpcio>=1", "numpy")])
    assert can_import(environment, "alone", "grpc.aio", "numpy", "typing_extensions") == [True] * 4
    assert can_import(environment, "yaml", "structlog", "torch", "paceline.wire", "clean_environment") == [False] * 5
    assert environment.distributions == ("grpcio", "numpy", "typing-extensions")


def test_the_console_script_runs_and_its_exit_code_is_the_functions(tmp_path: Path) -> None:
    environment = make_environment(tmp_path / "clean", [wheel_of(tmp_path, "alone")])
    script = environment.folder / "bin" / "run-alone"
    result = subprocess.run([script], env=environment.variables, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (3, "here\n")


def test_a_namespace_shared_by_several_distributions_holds_only_the_declared_ones(tmp_path: Path) -> None:
    protobuf = make_environment(tmp_path / "protobuf", [wheel_of(tmp_path, "one", "protobuf")])
    assert can_import(protobuf, "google.protobuf.message", "google.rpc.error_details_pb2") == [True, False]
    both = make_environment(tmp_path / "both", [wheel_of(tmp_path, "two", "googleapis-common-protos")])
    assert can_import(both, "google.protobuf.message", "google.rpc.error_details_pb2") == [True, True]


def test_wheels_fulfil_each_others_requirements(tmp_path: Path) -> None:
    wheels = [wheel_of(tmp_path, "upper", "lower"), wheel_of(tmp_path, "lower", "numpy")]
    environment = make_environment(tmp_path / "clean", wheels)
    assert environment.distributions == ("numpy",)
    assert can_import(environment, "upper", "lower") == [True, True]


@pytest.mark.parametrize(
    ("requirement", "says"),
    [
        ("no-such-distribution", "the wheel requires no-such-distribution, which is not installed"),
        ("numpy>=99", "the wheel requires numpy>=99, but "),
    ],
)
def test_an_unmet_requirement_is_named(tmp_path: Path, requirement: str, says: str) -> None:
    with pytest.raises(UnmetRequirementError, match=says):
        make_environment(tmp_path / "clean", [wheel_of(tmp_path, "alone", requirement)])


def test_markers_and_extras_decide_what_is_required() -> None:
    assert closure(['numpy; python_version < "3"'], set()) == {}
    assert "pyyaml" not in closure(["pydantic-settings"], set())
    assert "pyyaml" in closure(["pydantic-settings[yaml]"], set())
