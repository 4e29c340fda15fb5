"""Whatever starts a service starts it with settings that it has: loaded by the service's own settings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from manifests import OVERLAYS, kubectl, rendered
from starts import Start, in_compose, in_images, in_manifests, in_units

from paceline.drafter.settings import DrafterSettings
from paceline.router.settings import RouterSettings
from paceline.trainer.settings import TrainerSettings
from paceline.verifier.settings import VerifierSettings
from paceline.wire.health import HealthSettings
from paceline.wire.settings import ServiceSettings, load_settings

ROOT = Path(os.environ["RUNFILES_DIR"]) / "paceline"
SETTINGS: dict[str, type[ServiceSettings]] = {
    "drafter": DrafterSettings,
    "router": RouterSettings,
    "trainer": TrainerSettings,
    "verifier": VerifierSettings,
}
PREFIX = "PACELINE_"
NO_SETTINGS = {"PACELINE_SECRETS_DIR", "PACELINE_CONFIG"}
LAST_WORDS_S = 10.0
LEAST = {"image": 4, "unit": 8, "compose": 6, "cpu": 5, "edge": 1, "gpu": 5, "tls": 5}


def starts(kind: str, scratch: Path) -> list[Start]:
    found: Iterator[Start]
    if kind in OVERLAYS:
        if kubectl() is None:
            pytest.skip("kubectl is not on PATH")
        found = in_manifests(ROOT, kind, rendered(ROOT / "tools/deploy/kubernetes", kind, scratch))
    else:
        found = {"image": in_images, "unit": in_units, "compose": in_compose}[kind](ROOT)
    return list(found)


@pytest.fixture(scope="module", params=sorted(LEAST))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def found(kind: str, tmp_path_factory: pytest.TempPathFactory) -> list[Start]:
    return starts(kind, tmp_path_factory.mktemp("starts"))


def loaded(start: Start, monkeypatch: pytest.MonkeyPatch, secrets: Path) -> ServiceSettings:
    """As the service would; a SystemExit, with why on standard error, if it wouldn't start."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in start.variables.items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, value)
    if "PACELINE_SECRETS_DIR" in start.variables:
        monkeypatch.setenv("PACELINE_SECRETS_DIR", str(secrets))
    assert start.arguments[0] == "serve", start.where
    return load_settings(SETTINGS[start.service], start.arguments[1:], start.where)


def test_all_of_them_are_found(kind: str, found: list[Start]) -> None:
    assert len(found) >= LEAST[kind]


def test_every_flag_and_value_is_the_services(
    found: list[Start], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "paceline_token").write_text("sesame")
    for start in found:
        with monkeypatch.context() as patch:
            settings = loaded(start, patch, tmp_path)
        assert settings.token == ("sesame" if "PACELINE_SECRETS_DIR" in start.variables else ""), start.where


def test_every_variable_is_a_setting_of_the_service(found: list[Start]) -> None:
    for start in found:
        known = {PREFIX + name.upper() for name in SETTINGS[start.service].model_fields} | NO_SETTINGS
        assert {name for name in start.variables if name.startswith(PREFIX)} <= known, start.where


def test_no_secret_is_on_a_command_line_or_in_an_environment(found: list[Start]) -> None:
    for start in found:
        assert "PACELINE_TOKEN" not in start.variables, start.where
        assert not any(argument.startswith("--token") for argument in start.arguments), start.where


def test_draining_ends_before_patience_does(
    found: list[Start], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`drain_s` is counted twice at most: by the service's own drain, and by the server for calls that still run."""
    for start in found:
        if start.stop_s is not None:
            with monkeypatch.context() as patch:
                drain_s = loaded(start, patch, tmp_path).drain_s
            assert start.stop_s >= 2 * drain_s + LAST_WORDS_S, start.where


def test_health_is_asked_with_flags_that_exist(found: list[Start]) -> None:
    for start in found:
        if start.health:
            assert start.health[0] == "paceline-health", start.where
            load_settings(HealthSettings, start.health[1:], start.where)


def test_a_flag_that_is_not_there_would_be_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    start = Start("a test", "router", ("serve", "--not-a-flag"), {})
    with pytest.raises(SystemExit):
        loaded(start, monkeypatch, tmp_path)
