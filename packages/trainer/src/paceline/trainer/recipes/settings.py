"""Settings of `bootstrap`, `frame` and `invent`. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from paceline.wire.settings import ClientSettings


class BootstrapSettings(ClientSettings):
    """Makes a drafter for a target from nothing but prompts: the target answers them, a drafter learns from that.

    Stop it whenever you like and start it again with the same options: it goes on where it was, in --work.
    """

    target: str
    """Hub name, folder, .gguf file, or package:NAME of a Python package with weights."""
    prompts: Path
    """JSON lines with a prompt, or messages, each; and a source, if you like."""
    recipe: str
    """tiny_lm, trimmed_lm or feature_head."""
    out: Path
    """Folder to make, a revision; it must not exist."""
    work: Path | None = None
    """Folder for answers and what else is kept to go on from. Without it, OUT.work."""
    name: str = Field(default="", max_length=200)
    """The line of revisions it begins; without it, the recipe's name."""

    verifier: str = ""
    """host:port of a verifier that hosts the target and answers in its place, several times as fast."""
    sources: str = ""
    """Only prompts from these, separated by commas; each a name, or a pattern with *."""
    max_prompts: int = Field(default=0, ge=0, le=1_000_000)
    """Answer so many of the prompts, in mixed order; 0 answers all."""
    max_tokens: int = Field(default=256, ge=1, le=32_768)
    """Most tokens of an answer."""
    max_prompt_tokens: int = Field(default=1024, ge=1, le=1 << 20)
    """Longer prompts are left out."""
    answers: Path | None = None
    """Folder of answers that are there already, all from --prompts: no prompt is asked."""
    readings: str = ""
    """Folder of answers that were read already, too; several, of the same layers, are separated by commas."""

    parent: Path | None = None
    """Folder of a revision to train on from instead of from nothing; feature_head only, `refit` is for the others."""

    objective: str = ""
    """What to learn by, such as forward_kl, tvd_pp, pld, hybrid; without it, the recipe's own."""
    vocabulary: int = Field(default=0, ge=0, le=1 << 20)
    """Most tokens that the drafter knows; 0: the recipe's own."""
    width: int = Field(default=0, ge=0, le=8192)
    """Of its hidden states; 0: the recipe's own."""
    layers: int = Field(default=0, ge=0, le=64)
    """0: the recipe's own."""
    epochs: float = Field(default=3.0, ge=0.0, le=1000.0)
    """Passes over the answers."""
    pretrain_epochs: float = Field(default=1.0, ge=0.0, le=1000.0)
    """Passes over prompts and answers as plain text before that."""
    learning_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """The greatest; 0: the recipe's own."""
    batch_tokens: int = Field(default=4096, ge=16, le=1 << 20)
    """Tokens of a step, about."""
    held_out: float = Field(default=0.05, ge=0.0, lt=1.0)
    """Share of the prompts that the drafter is judged on and doesn't learn from."""
    max_judged: int = Field(default=200, ge=1, le=1_000_000)
    """Answers that it is judged on, at most."""
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    """Of weights and of the order of texts."""

    weights: Literal["bfloat16", "float32", "none"] = "bfloat16"
    """Weights beside the graph, to train on from; none: the graph's own, in int8, have to do."""

    threads: int = Field(default=0, ge=0, le=1024)
    """For computing; 0: as torch chooses."""
    dtype: str = Field(default="auto", pattern="^(auto|float32|bfloat16)$")
    """Of the target, when it is asked in this process."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    """debug, info, warning or error."""
    json_output: bool = Field(default=False, alias="json")
    """Print what was made as one JSON object."""


class FrameSettings(ClientSettings):
    """Puts prompts together from texts that are there and requests about them, such as 'Summarize: {text}'.

    The same options make the same file.
    """

    texts: Path
    """File of JSON lines as bootstrap takes them as --prompts; of each the longest paragraph of its first message."""
    sources: str = ""
    """Only from these, each a name or a pattern such as t0/*, separated by commas; all, if empty."""
    frames: Path
    """File of requests, one a line, with {text} in one place or more; \\n is a line break. They take turns."""
    out: Path
    """File of JSON lines to make; bootstrap takes it as --prompts."""
    count: int = Field(default=1000, ge=1, le=1_000_000)
    """Prompts that it has."""
    min_characters: int = Field(default=40, ge=1, le=1 << 20)
    """Shorter paragraphs are left out."""
    max_characters: int = Field(default=1500, ge=1, le=1 << 20)
    """Longer ones are cut after a sentence."""
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    """Another one puts other things together."""
    json_output: bool = Field(default=False, alias="json")
    """Print what was made as one JSON object."""


class InventSettings(ClientSettings):
    """Has an instructed target make up prompts: for those who have none, or too few of a kind.

    Stop it whenever you like and start it again with the same options: it goes on where it was, in --out.
    """

    target: str
    """Hub name, folder, .gguf file, or package:NAME of a Python package with weights."""
    verifier: str
    """host:port of a verifier that hosts the target."""
    out: Path
    """File of JSON lines to make or to go on with; bootstrap takes it as --prompts."""
    count: int = Field(default=1000, ge=1, le=1_000_000)
    """Prompts that it has in the end."""
    openings: Path | None = None
    """File of lines: every other prompt begins with one of them, in turn, such as 'Translate into French: '."""
    max_turns: int = Field(default=1, ge=1, le=16)
    """Conversations of 1 to so many questions, as many of each length."""
    max_prompt_tokens: int = Field(default=256, ge=1, le=32_768)
    """Questions that don't end before are left out."""
    max_tokens: int = Field(default=256, ge=1, le=32_768)
    """Most tokens of an answer within a conversation."""
    temperature: float = Field(default=0.8, gt=0.0, le=100.0)
    """Of the questions; answers are greedy."""
    seed: int = Field(default=0, ge=0, lt=1 << 31)
    """Another one makes other prompts."""
    at_once: int = Field(default=16, ge=1, le=1024)
    """Conversations that go on at the same time; the verifier's --max-sessions is a good number."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")
    """debug, info, warning or error."""
    json_output: bool = Field(default=False, alias="json")
    """Print what was made as one JSON object."""


def sources_of(settings: BootstrapSettings | FrameSettings) -> tuple[str, ...]:
    """--sources, taken apart."""
    return tuple(part.strip() for part in settings.sources.split(",") if part.strip())
