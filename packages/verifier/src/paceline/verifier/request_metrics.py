"""What the verifier shows Prometheus of each request: how long its parts took, how long it was, how it ended."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from paceline.verifier.session import Finish, Session

# vLLM's bounds of buckets, and some between them for small models: so figures of both can be laid over each other.
TOKEN_S = (
    *(0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0),
    *(2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
FIRST_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
    *(160.0, 640.0, 2560.0),
)
REQUEST_S = (
    *(0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0),
    *(240.0, 480.0, 960.0, 1920.0, 7680.0),
)
LENGTHS = tuple(mantissa * 10**exponent for exponent in range(6) for mantissa in (1, 2, 5))  # 1 to 500,000
ABORT, ERROR = "abort", "error"


class RequestMetrics:
    """The metrics of requests; names and meanings are vLLM's. A call takes some microseconds.

    Args:
        registry: to show them in.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"paceline:{name}", text, buckets=buckets, registry=registry)

        self.first_token = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token", FIRST_S
        )
        self.between = histogram(
            "inter_token_latency_seconds",
            "Between two outputs of a request; with speculation an output may have several tokens",
            TOKEN_S,
        )
        self.per_token = histogram(
            "request_time_per_output_token_seconds", "Of a request: time after the first token, by token", TOKEN_S
        )
        self.latency = histogram("e2e_request_latency_seconds", "From a request's arrival to its end", REQUEST_S)
        self.queue = histogram(
            "request_queue_time_seconds", "From a request's arrival to its first admission", REQUEST_S
        )
        self.inference = histogram(
            "request_inference_time_seconds", "From a request's admission to its last token", REQUEST_S
        )
        self.prefill = histogram(
            "request_prefill_time_seconds", "From a request's admission to its first token", REQUEST_S
        )
        self.decode = histogram("request_decode_time_seconds", "From a request's first token to its last", REQUEST_S)
        self.prompt_tokens = histogram("request_prompt_tokens", "Tokens of a request's prompt", LENGTHS)
        self.generated_tokens = histogram("request_generation_tokens", "Tokens of a request's answer", LENGTHS)
        self.max_tokens = histogram("request_params_max_tokens", "Tokens that a request allowed", LENGTHS)
        self.successes = Counter(
            "paceline:request_success",
            "Requests that ended: stop, length, abort (the caller left) or error",
            ["finished_reason"],
            registry=registry,
        )
        self.overloads = Counter(
            "paceline:requests_overloaded", "Requests refused since the queue was full", registry=registry
        )

        for reason in (*Finish, ABORT, ERROR):
            self.successes.labels(reason.value if isinstance(reason, Finish) else reason)  # a rate needs a 0

    def turned_away(self, session: Session) -> None:
        """There is no room for a session."""
        session.accounted = True
        self.overloads.inc()

    def output(self, session: Session, now_s: float) -> None:
        """A session got tokens."""
        if not session.first_token_s:
            session.first_token_s = now_s
            self.first_token.observe(now_s - session.arrived_s)
        else:
            self.between.observe(now_s - session.last_token_s)
        session.last_token_s = now_s

    def ended(self, session: Session, now_s: float, why: str = "") -> None:
        """A session is over; what is said of it later changes nothing. why: ABORT or ERROR if its answer isn't
        complete."""
        if session.accounted:
            return
        session.accounted = True
        finish = session.finish
        self.successes.labels(why or (finish.value if finish is not None else ERROR)).inc()
        self.latency.observe(now_s - session.arrived_s)
        self.prompt_tokens.observe(len(session.request.prompt))
        self.generated_tokens.observe(session.total.tokens)
        self.max_tokens.observe(session.request.max_tokens)
        if session.first_token_s:
            decode_s = session.last_token_s - session.first_token_s
            self.prefill.observe(session.first_token_s - session.admitted_s)
            self.decode.observe(decode_s)
            self.inference.observe(session.last_token_s - session.admitted_s)
            if session.total.tokens > 1:
                self.per_token.observe(decode_s / (session.total.tokens - 1))
