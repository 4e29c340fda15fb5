"""A whole deployment that shows everything of itself: metrics of every process, spans to one collector."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from span_collector import SpanCollector
from tiny_target import make_tiny_target

from paceline.cli.stack import Service, Stack

MODEL = "tiny"
TENANT = "tenant-of-a-test"
DRAFTERS = {"suffix": "suffix", "recycling": "recycling"}
SERVICES = ("router", "verifier", "drafter", "trainer", "refit")
DEADLINE_S = 60.0
POLL_S = 0.05


@dataclass
class Observed:
    """Processes by name (drafters' are their names) and what they send."""

    stack: Stack
    collector: SpanCollector

    @property
    def router(self) -> Service:
        return self.stack.services["router"]

    def families(self, service: str) -> dict[str, Metric]:
        """What a service shows now, by name; a drafter stands for all."""
        name = "suffix" if service == "drafter" else service
        with urllib.request.urlopen(f"http://{self._metrics_of(name)}/metrics", timeout=10.0) as response:
            text = response.read().decode()
        return {family.name: family for family in text_string_to_metric_families(text)}

    def _metrics_of(self, name: str) -> str:
        """A service's ready file says where; refitting serves nothing and says it in its log."""
        service = self.stack.services[name]
        if service.ready_file.exists():
            return str(json.loads(service.ready_file.read_text())["metrics"])
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]
        return str(next(line["address"] for line in lines if line["event"] == "metrics"))

    def logs(self) -> str:
        return "\n".join(service.log.read_text(errors="replace") for service in self.stack.services.values())


@contextmanager
def observed_deployment(folder: Path) -> Iterator[Observed]:
    """A router with both doors, a verifier under vLLM's names too, two drafters, a trainer, and refitting."""
    model = make_tiny_target(folder / "model")
    with SpanCollector() as collector, Stack(folder, {"OTEL_BSP_SCHEDULE_DELAY": "100"}) as stack:
        watched = ("--metrics-listen", "127.0.0.1:0", "--otlp-endpoint", collector.address, "--log-json")
        state = ("--state", f"sqlite:///{folder}/router.db", "--http", "127.0.0.1:0")
        stack.start("router", "router", *state, "--segment-tokens", "8", "--policy", "fixed", *watched)
        stack.wait("router")
        announce = ("--router", stack.services["router"].address, *watched)
        target = ("--model", str(model), "--model-name", MODEL, "--drafting", "always", "--vllm-metrics")
        stack.start("verifier", "verifier", *target, *announce)
        stack.start("trainer", "trainer", "--data", str(folder / "trainer"), *announce)
        for name, strategy in DRAFTERS.items():
            stack.start(name, "drafter", "--name", name, "--strategies", strategy, *announce)
        stack.wait()
        stack.wait_connected(stack.services["router"].address, list(DRAFTERS))
        of = ("--trainer", stack.services["trainer"].address, "--verifier", stack.services["verifier"].address)
        work = ("--line", "tiny", "--work", str(folder / "refit"))
        refit = stack.spawn_plain("refit", "-m", "paceline.trainer", "refit", *of, *work, *watched)
        stack.wait_for_output(refit, '"learning"', DEADLINE_S)
        yield Observed(stack, collector)


def eventually(holds: object, what: str) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not holds():  # type: ignore[operator]
        assert time.monotonic() < deadline, what
        time.sleep(POLL_S)
