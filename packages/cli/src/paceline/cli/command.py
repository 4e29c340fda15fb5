"""What a command is made of: a function whose settings become options, and whose errors become one line.

    @command
    def status(settings: RouterSettings, as_json: AsJson = False) -> None: ...

The function's first parameter is replaced by one option for each field of its type, and by --config; what typer gives
goes through `paceline.wire.settings.load_settings`, so flags, variables and files mean what they mean to a service.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import grpc
import typer
from pydantic_settings import BaseSettings

from paceline.cli.console import complain
from paceline.cli.stack import StackError
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError, load_settings

PANEL = "Which deployment, and how to dial it"
USAGE = 2
INTERRUPTED = 130

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead, for programs.")]


class CommandError(Exception):
    """What went wrong and what to do about it, in one line. Exit code 1."""


class UsageError(CommandError):
    """What was asked for makes no sense; the message names the option. Exit code 2."""


def command(run: Callable[..., None]) -> Callable[..., None]:
    """For typer: `run` with its settings as options, and its errors as one line."""
    signature = inspect.signature(run, eval_str=True)
    settings_class: type[BaseSettings] | None = None
    parameters = [one for one in signature.parameters.values() if one.name != "settings"]
    if "settings" in signature.parameters:
        settings_class = signature.parameters["settings"].annotation
        parameters += _options(settings_class)

    @functools.wraps(run)
    def wrapper(**given: Any) -> None:
        who = f"paceline {run.__name__}"
        with one_line(who):
            if settings_class is not None:
                given["settings"] = _settings(settings_class, given, who)
            run(**given)

    wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {one.name: one.annotation for one in parameters}
    del wrapper.__wrapped__
    return wrapper


@contextmanager
def one_line(who: str) -> Iterator[None]:
    """Says what went wrong in one line, and ends with the exit code that it deserves."""
    try:
        yield
    except UsageError as error:
        complain(who, str(error))
        raise typer.Exit(USAGE) from None
    except (CommandError, StackError, StartupError, PacelineError) as error:
        complain(who, str(error))
        raise typer.Exit(1) from None
    except grpc.aio.AioRpcError as error:  # what nobody foresaw; never a traceback with a request in it
        complain(who, f"{error.code().name}: {error.details()}")
        raise typer.Exit(1) from None
    except BrokenPipeError:  # whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains when it flushes
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _options(settings_class: type[BaseSettings]) -> list[inspect.Parameter]:
    prefix = settings_class.model_config.get("env_prefix", "")
    options = [
        _option(name, field.description or "", str(field.default or ""), f"{prefix}{name}".upper())
        for name, field in settings_class.model_fields.items()
    ]
    return [*options, _option("config", "YAML file with any of these settings.", "", f"{prefix}CONFIG")]


def _option(name: str, description: str, default: str, variable: str) -> inspect.Parameter:
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=" ".join(description.split()).replace("[", r"\["),
        envvar=variable,
        show_default=default or False,
        rich_help_panel=PANEL,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def _settings(settings_class: type[BaseSettings], given: dict[str, Any], who: str) -> BaseSettings:
    """Takes the settings out of what was given. Exits with 2 and a line for each that is out of bounds."""
    names = [*settings_class.model_fields, "config"]
    values = {name: given.pop(name) for name in names}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items() if value is not None]
    return load_settings(settings_class, flags, who)
