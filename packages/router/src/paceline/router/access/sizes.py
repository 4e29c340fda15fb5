"""How large a request is, against what its tenant may send and ask for."""

from __future__ import annotations

from paceline.router.access.quota import Quota
from paceline.v1 import generation_pb2

BYTES_PER_TOKEN_ID = 4


def check_sizes(request: generation_pb2.GenerateRequest, quota: Quota) -> None:
    """Raises PROMPT_TOO_LONG or OUT_OF_RANGE. How many tokens a text has is known only when its answer begins."""
    kind = request.WhichOneof("prompt") or "prompt"
    num_tokens = len(request.token_ids.ids)
    num_bytes = BYTES_PER_TOKEN_ID * num_tokens + len(request.text.encode())
    num_bytes += sum(len(message.content.encode()) for message in request.messages.messages)
    quota.check_prompt(kind, num_bytes, num_tokens)
    quota.check_max_tokens(request.limits.max_tokens)


def bound_answer(request: generation_pb2.GenerateRequest, quota: Quota) -> None:
    """Sets what the answer may have at most if the request doesn't say, so that a verifier's default isn't more."""
    limit = quota.limits.max_tokens
    if limit is not None and not request.limits.max_tokens:
        asked = request.most_tokens if request.HasField("most_tokens") else limit
        request.most_tokens = min(limit, asked)
