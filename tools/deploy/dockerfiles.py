"""Dockerfiles, read as far as tests need: no engine that could build images runs everywhere."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class DockerfileError(Exception):
    """It isn't written as the readers here expect."""


@dataclass(frozen=True)
class Instruction:
    """One instruction, with continued lines joined: `COPY`, and what comes after it."""

    name: str
    rest: str

    @property
    def exec_form(self) -> list[str]:
        """Words of a JSON list. Raises DockerfileError for a shell's line, which would keep signals for itself."""
        try:
            words = json.loads(self.rest)
        except ValueError:
            words = None
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DockerfileError(f"{self.name} {self.rest}: must be a JSON list of words")
        return words


@dataclass(frozen=True)
class Dockerfile:
    """Its stages, each a list of instructions that begins with FROM; what comes before the first is `head`."""

    path: Path
    head: tuple[Instruction, ...]
    stages: tuple[tuple[Instruction, ...], ...]

    @property
    def last(self) -> tuple[Instruction, ...]:
        return self.stages[-1]

    def only(self, name: str) -> Instruction:
        """The one instruction of this name in the last stage."""
        found = [instruction for instruction in self.last if instruction.name == name]
        if len(found) != 1:
            raise DockerfileError(f"{self.path}: {len(found)} x {name} in the last stage")
        return found[0]

    @property
    def health(self) -> list[str]:
        """The command of HEALTHCHECK."""
        _, command, words = self.only("HEALTHCHECK").rest.partition("CMD ")
        return Instruction(command.strip(), words).exec_form

    @property
    def start(self) -> list[str]:
        """ENTRYPOINT and CMD."""
        return [*self.only("ENTRYPOINT").exec_form, *self.only("CMD").exec_form]

    @property
    def variables(self) -> dict[str, str]:
        """ENV of the last stage."""
        lines = [instruction.rest for instruction in self.last if instruction.name == "ENV"]
        return dict(pair.partition("=")[::2] for line in lines for pair in shlex.split(line))

    @property
    def labels(self) -> dict[str, str]:
        lines = [instruction.rest for instruction in self.last if instruction.name == "LABEL"]
        return dict(pair.partition("=")[::2] for line in lines for pair in shlex.split(line))

    @property
    def installed(self) -> list[str]:
        """Arguments of install.sh, with build arguments as they are by default."""
        arguments = dict(
            shlex.split(instruction.rest)[0].partition("=")[::2]
            for stage in self.stages
            for instruction in stage
            if instruction.name == "ARG"
        )
        runs = [instruction.rest for instruction in self.stages[0] if instruction.name == "RUN"]
        if len(runs) != 1:
            raise DockerfileError(f"{self.path}: the first stage has {len(runs)} RUN, not one")
        words = shlex.split(_VARIABLE.sub(lambda found: arguments[found[1] or found[2]], runs[0]))
        if words[0] != "tools/deploy/install.sh" or len(words) != 5:
            raise DockerfileError(f"{self.path}: RUN {runs[0]}: must be install.sh with four arguments")
        return words[1:]

    @property
    def extras(self) -> list[str]:
        return [extra for extra in self.installed[1].split(",") if extra]


def read_dockerfile(path: Path) -> Dockerfile:
    """Raises DockerfileError."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    instructions = [
        Instruction(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in joined)
    ]
    starts = [index for index, instruction in enumerate(instructions) if instruction.name == "FROM"]
    if not starts:
        raise DockerfileError(f"{path}: no FROM")
    ends = [*starts[1:], len(instructions)]
    stages = tuple(tuple(instructions[start:end]) for start, end in zip(starts, ends, strict=True))
    return Dockerfile(path, tuple(instructions[: starts[0]]), stages)
