"""Settings of a service: flags, PACELINE_… environment variables, files of secrets, a YAML file; one name each.

Each service derives its settings from `ServiceSettings`; its `__main__` hands a table of commands to `run_commands`.
`--max-sessions 4`, `PACELINE_MAX_SESSIONS=4` and `max_sessions: 4` are the same setting. A secret is best a file: in
the folder that PACELINE_SECRETS_DIR names, or systemd's CREDENTIALS_DIRECTORY, `paceline_token` has what --token would.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
    SettingsError,
    YamlConfigSettingsSource,
)

S = TypeVar("S", bound=BaseSettings)

_UNKNOWN = re.compile(r"(unrecognized arguments: )(.*)", re.DOTALL)

DEFAULT_MAX_MESSAGE_BYTES = 16 * 1024 * 1024


class ClientSettings(BaseSettings):
    """How to dial a Paceline service."""

    model_config = SettingsConfigDict(env_prefix="PACELINE_", extra="forbid", use_attribute_docstrings=True)

    token: str = Field(default="", repr=False)
    """Bearer token: asked of every caller, and shown to every service dialled. Prefer PACELINE_TOKEN, or a file
    paceline_token in PACELINE_SECRETS_DIR: others on the machine see a command line."""
    tls_ca: Path | None = None
    """PEM file with the certificate authority that vouches for the services dialled; turns TLS on for dialling."""
    tls_client_cert: Path | None = None
    """PEM file with the certificate chain shown to services that ask for one; a service's own tls_cert if unset."""
    tls_client_key: Path | None = None
    """PEM file with the private key of tls_client_cert."""
    max_message_bytes: int = Field(default=DEFAULT_MAX_MESSAGE_BYTES, ge=64 * 1024, le=256 * 1024 * 1024)
    """Largest gRPC message sent or accepted, in bytes."""


class ObservedSettings(ClientSettings):
    """What a process has that others watch."""

    metrics_listen: str = ""
    """host:port to show Prometheus metrics on, at /metrics; port 0 takes a free one; empty shows none. Nobody is asked
    for the token there."""
    otlp_endpoint: str = Field(default="", max_length=1000)
    """Where OpenTelemetry spans go, by gRPC: host:port, or https://host:port for TLS (needs the extra [traces]); empty
    goes by OTEL_EXPORTER_OTLP_ENDPOINT, and without that nothing is traced."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    """debug, info, warning or error."""
    log_json: bool = False
    """One JSON object a line instead of text."""


class ServiceSettings(ObservedSettings):
    """What every service has."""

    listen: str = "127.0.0.1:0"
    """host:port to listen on; port 0 takes a free one."""
    advertise: str = ""
    """host:port under which others reach this service, if it differs from where it listens."""
    router: str = ""
    """host:port of the router to announce to; several are separated by commas; empty announces to none."""
    tls_cert: Path | None = None
    """PEM file with this service's certificate chain; with tls_key, turns TLS on for listening."""
    tls_key: Path | None = None
    """PEM file with the private key of tls_cert."""
    tls_client_ca: Path | None = None
    """PEM file with the certificate authority that vouches for callers; on every port, whoever has none of its
    certificates is turned away."""
    ready_file: Path | None = None
    """File to write the bound address to, once ready to serve."""
    drain_s: float = Field(default=10.0, ge=0.0, le=600.0)
    """Seconds that running requests get to finish when the service is told to stop."""


@dataclass(frozen=True)
class Command:
    """One subcommand: `run(settings)` returns the exit code."""

    summary: str
    settings: type[BaseSettings]
    run: Callable[[Any], int]


def one_of(value: str, known: Iterable[str]) -> str:
    """A setting that is a name: the name, if it is known. Raises ValueError, which becomes a line of help."""
    names = list(known)
    if value not in names:
        raise ValueError(f"must be one of {', '.join(names)}, but is {value!r}")
    return value


class StartupError(Exception):
    """The service can't start; the message is the one line that a person reads. Exit code 1."""


def load_settings(settings_class: type[S], arguments: Sequence[str], prog: str) -> S:
    """Reads flags, environment, secrets, and the file of --config or PACELINE_CONFIG, in that order of precedence.

    Exits with code 2 and one line a problem if a setting is unknown or out of bounds.
    """
    flags_given, config = _split_config(list(arguments))
    secrets = _secrets_folder()

    class Loader(settings_class):  # type: ignore[valid-type, misc]
        __doc__ = settings_class.__doc__

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            flags: CliSettingsSource[Any] = CliSettingsSource(
                settings_cls,
                cli_prog_name=prog,
                cli_parse_args=flags_given,
                cli_kebab_case=True,
                cli_implicit_flags=True,
                cli_hide_none_type=True,
            )
            sources: tuple[PydanticBaseSettingsSource, ...] = (flags, init_settings, _Environment(settings_cls))
            if secrets is not None:
                sources = (*sources, SecretsSettingsSource(settings_cls, secrets_dir=secrets))
            if config is not None:
                sources = (*sources, YamlConfigSettingsSource(settings_cls, yaml_file=config))
            return sources

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return Loader()
    except SystemExit:
        sys.stderr.write(_UNKNOWN.sub(_without_values, said.getvalue()))
        raise
    except ValidationError as error:
        _exit_with([f"{_name(problem['loc'])}: {problem['msg']}" for problem in error.errors()], prog)
    except SettingsError as error:
        _exit_with([str(error)], prog)


class _Environment(EnvSettingsSource):
    """Without fields that have another name on the command line: pydantic looks them up without the prefix, so that
    somebody's JSON=1 would be our --json."""

    def __call__(self) -> dict[str, Any]:
        others = {info.validation_alias for info in self.settings_cls.model_fields.values() if info.validation_alias}
        return {name: value for name, value in super().__call__().items() if name not in others}


def _without_values(found: re.Match[str]) -> str:
    """argparse repeats what it doesn't know; a misspelt --token would put the token into a log."""
    flags = [word.partition("=")[0] for word in found[2].split() if word.startswith("-")]
    return found[1] + (" ".join(flags) or "a value that belongs to no flag")


def _name(location: tuple[int | str, ...]) -> str:
    return "--" + ".".join(str(part) for part in location).replace("_", "-")


def _exit_with(problems: list[str], prog: str) -> NoReturn:
    for problem in problems:
        print(f"{prog}: {problem}", file=sys.stderr)
    print(f"{prog}: try '{prog} --help'", file=sys.stderr)
    raise SystemExit(2)


def _split_config(arguments: list[str]) -> tuple[list[str], Path | None]:
    """Takes --config FILE out of the arguments, since the file has to be known before the flags are read."""
    found = os.environ.get("PACELINE_CONFIG", "")
    rest: list[str] = []
    while arguments:
        argument = arguments.pop(0)
        if argument == "--config" and arguments:
            found = arguments.pop(0)
        elif argument.startswith("--config="):
            found = argument.removeprefix("--config=")
        else:
            rest.append(argument)
    if not found:
        return rest, None
    if not Path(found).is_file():
        print(f"--config: no file {found}", file=sys.stderr)
        raise SystemExit(2)
    return rest, Path(found)


def _secrets_folder() -> Path | None:
    """Where a container engine or service manager has put secrets, each in a file named paceline_ and its setting."""
    if folder := os.environ.get("PACELINE_SECRETS_DIR", ""):
        if not Path(folder).is_dir():
            print(f"PACELINE_SECRETS_DIR: no folder {folder}", file=sys.stderr)
            raise SystemExit(2)
        return Path(folder)
    credentials = Path(os.environ.get("CREDENTIALS_DIRECTORY", ""))
    return credentials if credentials.is_absolute() and credentials.is_dir() else None


def run_commands(prog: str, version: str, commands: dict[str, Command], arguments: Sequence[str]) -> int:
    """Entry point of a console script: picks the subcommand, loads its settings, runs it; returns the exit code."""
    name = arguments[0] if arguments else "--help"
    if name == "--version":
        print(f"{prog} {version}")
        return 0
    if name not in commands:
        _print_usage(prog, commands)
        return 0 if name in ("--help", "-h", "help") else 2
    command = commands[name]
    settings = load_settings(command.settings, list(arguments[1:]), f"{prog} {name}")
    try:
        return command.run(settings)
    except StartupError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _print_usage(prog: str, commands: dict[str, Command]) -> None:
    print(f"usage: {prog} COMMAND [--help] [--config FILE.yaml] [options]\n")
    for name, command in commands.items():
        print(f"  {name:12} {command.summary}")
    print(f"  {'--version':12} print the version")
