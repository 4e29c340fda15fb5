"""Settings of `paceline-trainer refit`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from paceline.trainer.online.schedule import SCHEDULES
from paceline.trainer.settings import RemoteSettings
from paceline.wire.settings import ObservedSettings, one_of


class RefitSettings(RemoteSettings, ObservedSettings):
    """Keeps a line of revisions good at the traffic that is really there: reads lessons from a trainer's store, refits
    when it pays, and publishes what is better on lessons that were held out. A process of its own, anywhere."""

    line: str = Field(min_length=1, max_length=200)
    """Line of revisions to refit, e.g. tiny_lm; its newest revision is what it begins with."""
    verifier: str = "127.0.0.1:7710"
    """host:port of the verifier whose lessons are learned from: for the target's tokenizer, and to give way to it."""
    work: Path = Path("~/.local/share/paceline/refit")
    """Folder for what must survive a restart; one process at a time."""
    schedule: str = "cost_aware"
    """When to refit: cost_aware (when it will bring more than it costs) or interval."""
    interval_tokens: int = Field(default=8192, ge=256, le=1 << 30)
    """Tokens of new lessons between two refits, for --schedule interval; the first refit for cost_aware."""
    window_tokens: int = Field(default=65_536, ge=1024, le=1 << 26)
    """Tokens of the newest lessons that are learned from, again and again."""
    passes: float = Field(default=4.0, gt=0.0, le=100.0)
    """Times that a refit goes through the window."""
    objective: str = "hybrid"
    """What is minimised."""
    selection: str = "all"
    """Which positions are learned from; several, separated by commas, multiply."""
    rule: str = "muon"
    """How weights follow gradients: muon or adamw."""
    learning_rate: float = Field(default=0.0, ge=0.0, le=1.0)
    """The greatest of a refit; 0: 0.02 with muon, 2e-3 with adamw."""
    batch_tokens: int = Field(default=2048, ge=64, le=1 << 20)
    """Tokens of a step."""
    lora_rank: int = Field(default=0, ge=0, le=1024)
    """Rank of adapters that are trained instead of the weights; 0 trains all weights."""
    quantization: str = "int8"
    """Of published graphs: int8 or none."""
    threads: int = Field(default=1, ge=1, le=1024)
    """Threads that compute; they run when nobody else wants the processor."""
    pause_above: float = Field(default=2.0, ge=0.0, le=1e6)
    """Pause while the verifier has more sessions than this share of those that it can run at once; 0 pauses whenever it
    has any."""
    poll_s: float = Field(default=1.0, ge=0.01, le=3600.0)
    """Seconds between looks at the verifier's load and at new lessons."""
    sign: Path | None = None
    """Private key that `keygen` wrote, to sign revisions with."""
    seed: int = Field(default=0, ge=0, le=(1 << 32) - 1)
    """Of all that is drawn."""

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, value: str) -> str:
        return one_of(value, SCHEDULES)

    @field_validator("rule")
    @classmethod
    def _known_rule(cls, value: str) -> str:
        from paceline.trainer.training.rules import RULES  # torch comes with it

        return one_of(value, RULES)

    @field_validator("objective")
    @classmethod
    def _known_objective(cls, value: str) -> str:
        from paceline.trainer.learning.objectives import OBJECTIVES

        return one_of(value, OBJECTIVES)

    @field_validator("selection")
    @classmethod
    def _known_selections(cls, value: str) -> str:
        from paceline.trainer.learning.selection import SELECTIONS

        for name in value.split(","):
            one_of(name, SELECTIONS)
        return value

    @field_validator("quantization")
    @classmethod
    def _known_quantization(cls, value: str) -> str:
        return one_of(value, ("int8", "none"))
