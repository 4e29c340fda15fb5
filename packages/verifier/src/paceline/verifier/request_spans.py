"""What a request's span tells: where its time went. Nothing of it is made while steps run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from paceline.verifier.session import Session
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.tracing import NO_SPAN, Kind, Span, Spans, traceparent_in

MAX_DRAFTERS = 16  # that a span names


@contextmanager
def request_span(spans: Spans, metadata: Callable[[], Any]) -> Iterator[Span]:
    """The span of one request, below its caller's; none if nothing is traced.

    Args:
        spans: makes it.
        metadata: of the call.
    """
    if not spans.on:
        yield NO_SPAN
        return
    span = spans.begin("generate", traceparent_in(metadata()), kind=Kind.SERVER)
    try:
        yield span
    except PacelineError as error:
        span.end(error.reason.value)
        raise
    except (asyncio.CancelledError, GeneratorExit):
        span.set({"paceline.cancelled": True})
        raise
    except BaseException:
        span.end(Reason.INTERNAL.value)
        raise
    finally:
        span.end()


def tell(span: Span, session: Session, model: str, names: Mapping[str, str]) -> None:
    """What became of a session, with the parts of its time as spans of their own.

    Args:
        span: of the request.
        session: that is over.
        model: name of the target.
        names: of drafters, by id.
    """
    request, total = session.request, session.total
    span.set(
        {
            "gen_ai.operation.name": "text_completion",
            "gen_ai.request.model": model,
            "gen_ai.response.id": request.request_id,
            "gen_ai.request.temperature": request.sampling.temperature,
            "gen_ai.request.max_tokens": request.max_tokens,
            "gen_ai.usage.input_tokens": len(request.prompt),
            "gen_ai.usage.output_tokens": total.tokens,
            "paceline.session_id": f"{session.session_id:x}",
            "paceline.committed_tokens": len(request.committed),
            "paceline.steps": total.steps,
            "paceline.candidates": total.nodes,
            "paceline.verify_s": total.verify_s,
            "paceline.prefill_s": total.prefill_s,
            "paceline.wait_s": total.wait_s,
            "paceline.drafters": _drafters(session, names),
        }
    )
    if session.finish is not None:
        span.set({"gen_ai.response.finish_reasons": [session.finish.value]})
    if not session.arrived_s:
        return
    ended_s = [at for at in (session.admitted_s, session.first_token_s, session.last_token_s) if at]
    parts = zip(("queue", "prefill", "decode"), (session.arrived_s, *ended_s), ended_s, strict=False)
    for name, began_s, at_s in parts:
        span.child(name, began_s=began_s).end(at_s=at_s)


def _drafters(session: Session, names: Mapping[str, str]) -> list[str]:
    """Those that proposed something, by name, and their strategies."""
    found = {f"{names.get(source.drafter_id, source.drafter_id)}/{source.strategy}" for source in session.total.credits}
    return sorted(found)[:MAX_DRAFTERS]
