"""Settings of a drafter."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from paceline.drafter.models.strategies import MODEL_STRATEGIES, ModelOptions
from paceline.drafter.stopping import STOPPING_RULES
from paceline.drafter.stopping.base import StoppingRule
from paceline.drafter.strategies import STRATEGIES
from paceline.drafter.trees import TREES
from paceline.drafter.trees.base import Shape
from paceline.drafter.vocabulary import BRIDGES
from paceline.wire.settings import ServiceSettings, one_of

AUTO = "auto"


class DrafterSettings(ServiceSettings):
    """A drafter dials verifiers: those given by --verifiers, and those that the routers of --router know."""

    model_config = SettingsConfigDict(cli_shortcuts={"strategies": "strategy"}, protected_namespaces=())

    verifiers: str = ""
    """host:port of a verifier to draft for whatever routers say; several are separated by commas."""
    name: str = Field(default="", max_length=64)
    """What people call this drafter; several may share one. Empty: its strategies, joined by '+'."""
    drafter_id: str = Field(default="", max_length=128)
    """Unique in the deployment. Empty: the name and something random."""
    own: bool = False
    """Draft only for requests that name this drafter's id; nobody else's text is sent here."""
    strategies: str = "suffix,recycling"
    """How to draft; several are separated by commas and their trees are merged."""
    max_nodes: int = Field(default=32, ge=1, le=1024)
    """Most candidate tokens in one tree; a verifier or session that takes fewer gets fewer."""
    ahead: bool = True
    """While the verifier is at work, think on beyond the draft; reach further for verifiers that are far away."""
    memory_max_tokens: int = Field(default=1_000_000, ge=0, le=1_000_000_000)
    """Most tokens remembered between sessions, over all tenants; one alone may fill half, the least recently
    used leaves first. 0 remembers nothing. 100,000 tokens take about 16 MB."""

    datastore: Path | None = None
    """For retrieval and hierarchy: a folder made by `paceline-drafter index`."""
    model: str = ""
    """For causal_lm: a Hugging Face name, a folder, a .gguf file, or package:NAME."""
    revision: str = ""
    """For onnx_lm and feature_head: a folder made by `paceline-drafter export` or a trainer; two are separated by a
    comma, and each strategy takes the one that is made for it."""
    trainer: str = ""
    """host:port of a trainer whose revisions of --line take over as they are published, while sessions go on."""
    line: str = Field(default="", max_length=200)
    """Which of the trainer's lines to follow; begins with --revision if given, else with the line's newest."""
    revision_cache: Path = Path("~/.cache/paceline/revisions")
    """Folder for fetched revisions; the four used last stay."""
    public_key: Path | None = None
    """PEM file by `paceline-trainer keygen`: revisions that were not signed with its private key are refused."""
    trial: bool = True
    """With --router: a new revision takes over when the router has found it no worse on a few requests."""
    device: str = Field(default=AUTO, max_length=32)
    """Where the model runs: auto, cpu, cuda or cuda:N."""
    dtype: str = Field(default=AUTO, pattern="^(auto|float32|bfloat16|float16)$")
    """Of causal_lm's weights."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Of the model on a CPU; 0 lets the runtime choose, which in native code is one."""
    head_engine: str = Field(default=AUTO, pattern="^(auto|native|onnx)$")
    """What runs a feature_head: native code for this processor, compiled at the first start (needs g++ and a processor
    that multiplies bytes, VNNI), ONNX Runtime, or auto: the first where it can be."""
    give_way: bool = False
    """Compute only when nobody else wants the processor: for a drafter that shares it with its verifier, which then
    waits for drafts where that pays and is never slowed down by those it doesn't wait for."""
    tree: str = "opt_tree"
    """How a model's tree grows."""
    tree_width: int = Field(default=0, ge=0, le=64)
    """Most successors of a token that are looked at, and most tokens thought from in one pass of the model; 0 is 4."""
    tree_depth: int = Field(default=0, ge=0, le=64)
    """Most passes of the model for one draft; 0 is 8, and 4 for a feature_head."""
    stopping: str = "cost"
    """When a model stops earlier: a rule, or RULE:VALUE, such as svip:0.3."""
    bridge: str = AUTO
    """How a model's tokens become the target's; auto chooses by the two vocabularies."""
    bridge_store: Path | None = None
    """Folder that keeps what ngram_cache has learned about two vocabularies, token ids only; made if it isn't there."""
    cache_tokens: int = Field(default=65_536, ge=256, le=1 << 24)
    """Most tokens whose keys and values a model keeps, over all sessions; what it doesn't keep it reads again."""

    @field_validator("strategies")
    @classmethod
    def _known_strategies(cls, value: str) -> str:
        names = split(value)
        known = [*STRATEGIES, *MODEL_STRATEGIES]
        if not names or any(name not in known for name in names):
            raise ValueError(f"must name some of {', '.join(known)}, separated by commas, but is {value!r}")
        if len(set(names)) < len(names):
            raise ValueError(f"names a strategy twice: {value!r}")
        return value

    @field_validator("tree")
    @classmethod
    def _known_tree(cls, value: str) -> str:
        return one_of(value, TREES)

    @field_validator("bridge")
    @classmethod
    def _known_bridge(cls, value: str) -> str:
        return one_of(value, (AUTO, *BRIDGES))

    @field_validator("stopping")
    @classmethod
    def _known_rule(cls, value: str) -> str:
        make_rule(value)
        return value

    @model_validator(mode="after")
    def _own_has_a_name(self) -> DrafterSettings:
        if self.own and not self.drafter_id:
            raise ValueError("--own needs --drafter-id: requests name it by that")
        return self

    @model_validator(mode="after")
    def _a_line_has_a_trainer_and_a_strategy(self) -> DrafterSettings:
        if bool(self.trainer) != bool(self.line):
            raise ValueError("--trainer and --line belong together: give both, or neither")
        if self.line and not self.following_strategies:
            takers = ", ".join(name for name, strategy in MODEL_STRATEGIES.items() if strategy.takes)
            raise ValueError(f"--line needs a strategy that takes revisions: give --strategies with some of {takers}")
        if len({MODEL_STRATEGIES[name].takes for name in self.following_strategies}) > 1:
            names = ", ".join(self.following_strategies)
            raise ValueError(f"--line has revisions of one kind, but {names} take several: give each its own process")
        return self

    @property
    def quick_strategies(self) -> tuple[str, ...]:
        """Those that need no model."""
        return tuple(name for name in split(self.strategies) if name in STRATEGIES)

    @property
    def model_strategies(self) -> tuple[str, ...]:
        return tuple(name for name in split(self.strategies) if name in MODEL_STRATEGIES)

    def shape(self, strategy: str) -> Shape:
        """Of the trees of a strategy with a model."""
        usual = MODEL_STRATEGIES[strategy].shape
        return Shape(self.tree_width or usual.width, self.tree_depth or usual.depth)

    @property
    def following_strategies(self) -> tuple[str, ...]:
        """Those whose models are revisions of --line."""
        return tuple(name for name in self.model_strategies if self.line and MODEL_STRATEGIES[name].takes)

    @property
    def model_options(self) -> ModelOptions:
        return ModelOptions(
            self.model, tuple(split(self.revision)), self.device, self.dtype, self.threads, self.head_engine
        )


def make_rule(value: str) -> StoppingRule:
    """A stopping rule from RULE or RULE:VALUE. Raises ValueError."""
    name, colon, parameter = value.partition(":")
    rule = STOPPING_RULES[one_of(name, STOPPING_RULES)]
    if not colon:
        return rule()
    try:
        number = float(parameter)
    except ValueError:
        raise ValueError(f"{name} takes a number, but is given {parameter!r}") from None
    return rule(number)


def split(value: str) -> list[str]:
    """The parts of a setting that is a list."""
    return [part.strip() for part in value.split(",") if part.strip()]
