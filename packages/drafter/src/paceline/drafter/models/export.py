"""The `export` command: a transformers model to a folder that `onnx_lm` runs without torch."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from paceline.drafter.version import VERSION
from paceline.wire.errors import PacelineError
from paceline.wire.settings import StartupError

if TYPE_CHECKING:
    from paceline.drafter.models.export_steps import Exported


class ExportSettings(BaseSettings):
    """Makes a folder for `serve --revision` of a causal language model: a graph for ONNX Runtime and a tokenizer."""

    model_config = SettingsConfigDict(env_prefix="PACELINE_", extra="forbid", use_attribute_docstrings=True)

    model: str
    """Hub name, folder with safetensors, .gguf file, or package:NAME of a Python package with one."""
    out: Path
    """Folder to make; it must not exist."""
    quantize: Literal["int8", "none"] = "int8"
    """Weights: int8 is a quarter of the size and several times as fast; none keeps float32."""
    max_length: int = Field(default=0, ge=0, le=1 << 20)
    """Most tokens of a text it may be given. 0: as many as the model was made for."""
    name: str = Field(default="", max_length=200)
    """What people call the drafter. Empty: the end of the model's name."""


def export(settings: ExportSettings) -> int:
    """Exports a model and prints what was made of it; returns the exit code. Raises StartupError."""
    if settings.out.exists():
        raise StartupError(f"--out {settings.out} exists; choose a folder that doesn't")
    try:
        with stage("loading torch, transformers and onnx"):
            from paceline.drafter.models.export_steps import run
    except ModuleNotFoundError as error:
        raise StartupError(
            f"export needs the Python package {error.name}; install what it needs with "
            "pip install 'paceline-drafter[export]'"
        ) from error
    try:
        exported = run(settings, command_of(settings))
    except PacelineError as error:
        raise StartupError(error.message) from error
    except OSError as error:
        raise StartupError(f"--out {settings.out}: {error.strerror or error}") from error
    print(summary(settings, exported))
    return 0


def command_of(settings: ExportSettings) -> str:
    """What to type to make the same again."""
    parts = ["paceline-drafter", "export", "--model", settings.model, "--quantize", settings.quantize]
    if settings.max_length:
        parts += ["--max-length", str(settings.max_length)]
    return f"{shlex.join(parts)} # {VERSION}"


def summary(settings: ExportSettings, exported: Exported) -> str:
    card = exported.card
    return (
        f"{settings.out}: {card.architecture}, {card.num_layers} layers, {card.vocab_size} tokens, up to "
        f"{card.max_length} positions, {exported.num_bytes / 2**20:.1f} MiB\n"
        f"top-1 agreement with torch {exported.top1_agreement:.1%} over {exported.num_positions} positions of its own "
        f"text, greatest difference of a logit {exported.max_logit_difference:.2g}\n"
        f"revision {exported.revision_id}"
    )


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Says on standard error what is being done, and how long it took."""
    print(f"{title} …", end=" ", file=sys.stderr, flush=True)
    begun_s = time.monotonic()
    try:
        yield
    except BaseException:
        print("failed", file=sys.stderr)
        raise
    print(f"{time.monotonic() - begun_s:.1f} s", file=sys.stderr)
