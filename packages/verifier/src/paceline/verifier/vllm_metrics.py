"""The same figures under vLLM's own names and labels, for dashboards and autoscalers that are made for vLLM.

Nothing is counted twice: what is shown is read from the metrics of the same name when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from paceline.verifier.metrics import Metrics

OURS, THEIRS = "paceline:", "vllm:"
ENGINE = "0"  # vLLM numbers the engines of one server; a verifier is one


class VllmMetrics(Collector):
    """See `--vllm-metrics`; register it where it is to be shown.

    Args:
        metrics: to read.
        model_name: that requests use.
    """

    def __init__(self, metrics: Metrics, model_name: str) -> None:
        requests = metrics.requests
        # By vLLM's name, without the prefix. Where ours is another, it is because vLLM has no labels there.
        self._sources: dict[str, Collector] = {
            "num_requests_running": metrics.running,
            "num_requests_waiting": metrics.waiting,
            "kv_cache_usage_perc": metrics.cache_usage,
            "num_preemptions": metrics.preemptions,
            "prompt_tokens": metrics.prompt_tokens,
            "prompt_tokens_cached": metrics.cached_tokens,
            "prefix_cache_queries": metrics.prompt_tokens,
            "prefix_cache_hits": metrics.cached_tokens,
            "generation_tokens": metrics.generation_tokens,
            "request_success": requests.successes,
            "request_prompt_tokens": requests.prompt_tokens,
            "request_generation_tokens": requests.generated_tokens,
            "request_params_max_tokens": requests.max_tokens,
            "time_to_first_token_seconds": requests.first_token,
            "inter_token_latency_seconds": requests.between,
            "request_time_per_output_token_seconds": requests.per_token,
            "e2e_request_latency_seconds": requests.latency,
            "request_queue_time_seconds": requests.queue,
            "request_inference_time_seconds": requests.inference,
            "request_prefill_time_seconds": requests.prefill,
            "request_decode_time_seconds": requests.decode,
            "spec_decode_num_drafts": metrics.drafts.drafts,
        }
        self._depths = metrics.drafts.depths
        self._labels = {"model_name": model_name, "engine": ENGINE}

    def describe(self) -> Iterator[Metric]:
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        for name, source in self._sources.items():
            for family in source.collect():
                yield self._renamed(family, name)
        for family in self._depths.totals():
            yield self._renamed(family, _DEPTHS[family.name])
        yield self._renamed(self._depths.accepted_by_position(), "spec_decode_num_accepted_tokens_per_pos")

    def _renamed(self, family: Metric, name: str) -> Metric:
        renamed = Metric(THEIRS + name, family.documentation, family.type)
        for sample in family.samples:
            suffix = sample.name.removeprefix(family.name)
            renamed.add_sample(THEIRS + name + suffix, {**self._labels, **sample.labels}, sample.value)
        return renamed


_DEPTHS = {
    "paceline:spec_decode_num_candidates": "spec_decode_num_draft_tokens",
    "paceline:spec_decode_num_accepted_candidates": "spec_decode_num_accepted_tokens",
}
