"""Who may import whom, and what nobody may use."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
SERVICES = ("cli", "drafter", "router", "trainer", "verifier")
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
FORBIDDEN_CALLS = {"eval", "exec", "torch.load", "os.system"}
EMPTY_NAMES = {"utils", "util", "helpers", "common", "misc"}


def hand_written() -> list[Path]:
    paths = [path for top in ("docs", "packages", "protos", "tools") for path in (ROOT / top).rglob("*.py")]
    return [path for path in paths if not path.stem.endswith(("_pb2", "_pb2_grpc"))]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_imports_no_other_service(service: str) -> None:
    sources = list((ROOT / "packages" / service / "src").rglob("*.py"))
    assert sources
    others = tuple(f"paceline.{other}" for other in SERVICES if other != service)
    for path in sources:
        for module in imported(ast.parse(path.read_text())):
            assert not module.startswith(others), f"{path.relative_to(ROOT)} imports {module}"


def test_the_contract_imports_no_service_and_no_torch() -> None:
    forbidden = ("torch", "transformers", *(f"paceline.{service}" for service in SERVICES))
    for path in (ROOT / "protos" / "python").rglob("*.py"):
        for module in imported(ast.parse(path.read_text())):
            assert not module.startswith(forbidden), f"{path.relative_to(ROOT)} imports {module}"


def test_nothing_loads_code_from_data() -> None:
    for path in hand_written():
        tree = ast.parse(path.read_text())
        for module in imported(tree):
            assert module.partition(".")[0] not in FORBIDDEN_MODULES, f"{path.relative_to(ROOT)} imports {module}"
        for name, call in called(tree):
            assert name not in FORBIDDEN_CALLS, f"{path.relative_to(ROOT)}:{call.lineno} calls {name}"
            for keyword in call.keywords:
                trusts = keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False"
                assert not trusts, f"{path.relative_to(ROOT)}:{call.lineno} trusts remote code"


def test_every_file_has_a_name_that_says_something() -> None:
    for path in hand_written():
        assert path.stem not in EMPTY_NAMES, path.relative_to(ROOT)


@pytest.mark.parametrize(
    ("package", "core"),
    [
        ("cli", ["colouring", "deployment", "rates"]),
        (
            "verifier",
            [
                "acceptance/coupled",
                "allowance",
                "answers",
                "calibration",
                "cost",
                "grammar/constraint",
                "grammar/guide",
                "grammar/mask",
                "grammar/schema",
                "grammar/tree_masks",
                "model/log_probs",
                "planning",
                "sampling",
                "session",
                "shadow_book",
                "shadow_replay",
                "step_times",
                "steps",
                "text",
                "trie",
                "waiting",
            ],
        ),
        (
            "trainer",
            [
                "learning/*",
                "learning/objectives/*",
                "learning/selection/*",
                "recipes/alignment",
                "recipes/cut_vocabulary",
                "recipes/judging",
                "recipes/lm_task",
                "recipes/lm_text",
                "recipes/own_vocabulary",
            ],
        ),
        (
            "router",
            [
                *("access/bucket", "access/quota", "access/rights", "access/table"),
                *("affinity", "arms", "context", "countdown", "evidence", "failures", "history"),
                *("http/fields", "http/requests", "http/validation", "orders", "placement", "policies/*", "probation"),
                *("registry", "reward", "trials", "turnover", "watch"),
            ],
        ),
        (
            "drafter",
            [
                "automaton",
                "calibration",
                "coupling",
                "datastore/suffix_array",
                "live_tree",
                "merge",
                "model_session",
                "model_worker",
                "opening",
                "pace",
                "reading",
                "session",
                "shared_noise",
                "stopping/*",
                "strategies/[!_]*",
                "trees/*",
            ],
        ),
    ],
)
def test_the_core_is_pure(package: str, core: list[str]) -> None:
    """No RPC, no files, no clock, no global randomness: those come in as arguments."""
    impure = ("grpc", "paceline.v1", "time", "random", "secrets", "pathlib", "os", "socket", "sqlite3")
    for name in core:
        paths = list((ROOT / "packages" / package / "src" / "paceline" / package).glob(f"{name}.py"))
        assert paths, name
        for path in paths:
            for module in imported(ast.parse(path.read_text())):
                assert not any(module == bad or module.startswith(f"{bad}.") for bad in impure), (
                    f"{path.name}: {module}"
                )
