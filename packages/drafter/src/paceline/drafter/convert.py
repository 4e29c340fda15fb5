"""Messages of the Draft stream to values and back. Everything a verifier sends is checked here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from paceline.drafter.features import Features, is_finite
from paceline.drafter.identity import Identity
from paceline.drafter.opening import Opening
from paceline.drafter.session import MAX_CONTEXT_TOKENS, Draft, Terms
from paceline.drafter.strategies.base import Commit, Sampling, TopK
from paceline.drafter.version import VERSION
from paceline.v1 import drafting_pb2, router_pb2, types_pb2
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.tracing import traceparent_of
from paceline.wire.tree import encode_tree
from paceline.wire.version import check_peer, make_peer

PACKAGE = "paceline-drafter"
MAX_VOCAB_SIZE = 1 << 21
MAX_TOP_K_ROWS = 1 << 14
MAX_QUARANTINE_S = 3600.0
MAX_HIDDEN_SIZE = 1 << 15
OWN_SINCE_MINOR = 1  # protocol 1.1 has Hello.own


def hello(
    drafter_id: str,
    name: str,
    strategies: Sequence[str],
    commit_top_k: int,
    own: bool = False,
    feature_layers: Sequence[int] = (),
    feature_window: int = 0,
    revision: str = "",
) -> drafting_pb2.DrafterMessage:
    """own: only sessions whose request names the drafter's id are announced to it."""
    return drafting_pb2.DrafterMessage(
        hello=drafting_pb2.Hello(
            peer=make_peer(PACKAGE, VERSION),
            drafter_id=drafter_id,
            name=name,
            strategies=strategies,
            commit_top_k=commit_top_k,
            own=own,
            feature_layers=feature_layers,
            feature_window=feature_window,
            revision=revision,
        )
    )


def goodbye(reason: str) -> drafting_pb2.DrafterMessage:
    return drafting_pb2.DrafterMessage(goodbye=drafting_pb2.Goodbye(reason=reason))


def ping(nonce: int) -> drafting_pb2.DrafterMessage:
    """Asks for a pong with the same nonce, an unsigned 64-bit number. Verifiers of protocol 1.0 send none."""
    return drafting_pb2.DrafterMessage(ping=drafting_pb2.Ping(nonce=nonce))


def read_pong(message: drafting_pb2.Pong) -> int:
    """The nonce of the ping that is answered."""
    return message.nonce


def draft_message(draft: Draft) -> drafting_pb2.DrafterMessage:
    tree = encode_tree(draft.anchor, draft.tree, draft_us=draft.draft_us, final=draft.final)
    return drafting_pb2.DrafterMessage(draft=tree)


def member(identity: Identity) -> router_pb2.Member:
    """What is announced to routers."""
    return router_pb2.Member(
        id=identity.drafter_id,
        role=router_pb2.ROLE_DRAFTER,
        name=identity.name,
        strategies=identity.strategies,
        revision=identity.revision,
        peer=make_peer(PACKAGE, VERSION),
        own=identity.own,
        trial_of=identity.trial_of,
    )


def read_terms(
    message: drafting_pb2.VerifierMessage, asked_top_k: int, own: bool = False, asked_layers: Sequence[int] = ()
) -> Terms:
    """The terms in a Welcome. Raises MALFORMED, OUT_OF_RANGE or INCOMPATIBLE_VERSION.

    own: what Hello said. A verifier that is too old to know what that means would announce everybody's sessions.
    """
    kind = message.WhichOneof("message")
    if kind != "welcome":
        raise PacelineError(Reason.MALFORMED, f"the first message is {kind}; it must be welcome", field="message")
    welcome = message.welcome
    check_peer(welcome.peer)
    if own and welcome.peer.protocol_minor < OWN_SINCE_MINOR:
        raise PacelineError(
            Reason.INCOMPATIBLE_VERSION,
            f"the verifier speaks protocol {welcome.peer.protocol_major}.{welcome.peer.protocol_minor} and would "
            "announce everybody's sessions to a drafter that is somebody's own; install a later paceline-verifier, or "
            "leave --own out",
            field="welcome.peer.protocol_minor",
            value=welcome.peer.protocol_minor,
            limit=f"at least {OWN_SINCE_MINOR}",
        )
    if not 1 <= welcome.vocab_size <= MAX_VOCAB_SIZE:
        raise out_of_range("welcome.vocab_size", welcome.vocab_size, f"in 1 … {MAX_VOCAB_SIZE}")
    if welcome.commit_top_k > asked_top_k:
        raise out_of_range("welcome.commit_top_k", welcome.commit_top_k, f"at most the {asked_top_k} asked for")
    layers = tuple(welcome.feature_layers)
    if layers and layers != tuple(asked_layers):
        raise out_of_range("welcome.feature_layers", str(layers[:9]), f"the layers asked for, {tuple(asked_layers)}")
    if layers and not 1 <= welcome.hidden_size <= MAX_HIDDEN_SIZE:
        raise out_of_range("welcome.hidden_size", welcome.hidden_size, f"in 1 … {MAX_HIDDEN_SIZE}")
    return Terms(
        verifier_id=welcome.verifier_id,
        model=welcome.model,
        tokenizer_hash=welcome.tokenizer_hash,
        vocab_size=welcome.vocab_size,
        max_tree_nodes=welcome.max_tree_nodes,
        max_tree_depth=welcome.max_tree_depth,
        commit_top_k=welcome.commit_top_k,
        protocol_minor=welcome.peer.protocol_minor,
        feature_layers=layers,
        hidden_size=welcome.hidden_size if layers else 0,
    )


def read_opening(message: drafting_pb2.SessionOpened, terms: Terms) -> Opening:
    """Raises EMPTY_PROMPT, PROMPT_TOO_LONG, OUT_OF_RANGE or TOKEN_OUT_OF_VOCABULARY."""
    least_value = message.least_value
    if not (math.isfinite(least_value) and least_value >= 0.0):
        raise out_of_range("opened.least_value", least_value, "finite and at least 0")
    if not message.tokens:
        raise PacelineError(
            Reason.EMPTY_PROMPT, "opened.tokens is empty; a session has a prompt", field="opened.tokens"
        )
    if message.prompt_tokens > len(message.tokens):
        raise out_of_range("opened.prompt_tokens", message.prompt_tokens, f"at most {len(message.tokens)}")
    return Opening(
        session_id=message.session_id,
        tokens=_tokens("opened.tokens", message.tokens, terms),
        digest=message.digest,
        prompt_tokens=message.prompt_tokens,
        sampling=_sampling(message.sampling),
        memory_key=message.memory_key,
        max_nodes=message.max_nodes,
        least_value=least_value,
        shadow=message.shadow,
        traceparent=traceparent_of(message.traceparent),
    )


def read_commit(message: drafting_pb2.Commit, terms: Terms, features: Features | None = None) -> Commit:
    """Raises PROMPT_TOO_LONG, MALFORMED, OUT_OF_RANGE or TOKEN_OUT_OF_VOCABULARY. features: see `read_features`."""
    return Commit(
        session_id=message.session_id,
        tokens=_tokens("commit.tokens", message.tokens, terms),
        length=message.length,
        digest=message.digest,
        top_k=_top_k(message.top_k, terms),
        step_s=message.step_us * 1e-6,
        features=features,
    )


def read_features(message: drafting_pb2.Commit, terms: Terms) -> Features | None:
    """The target's states in a commit; None if there are none, or none were asked for.

    Raises:
        PacelineError: MALFORMED or OUT_OF_RANGE. The commit is good all the same, only heads can't follow it.
    """
    first, values = message.features.first, message.features.values
    if not values or not terms.feature_width:
        return None
    num_positions, rest = divmod(len(values), 2 * terms.feature_width)
    if rest:
        raise PacelineError(
            Reason.MALFORMED,
            f"commit.features.values has {len(values)} bytes; it must have {2 * terms.feature_width} for each position",
            field="commit.features.values",
        )
    if first + num_positions >= message.length:
        limit = f"less than the commit's length {message.length}: the target hasn't read its last token"
        raise out_of_range("commit.features.first + positions", first + num_positions, limit)
    states = np.frombuffer(values, "<u2").reshape(num_positions, terms.feature_width)
    if not is_finite(states):
        raise out_of_range("commit.features.values", "infinite or no number at some place", "finite everywhere")
    return Features(first, states.astype(np.uint16, copy=False))


def read_quarantine_s(message: drafting_pb2.Refusal) -> float:
    """Seconds for which drafts are useless; 0 if the refusal does not say so."""
    if not message.quarantined or not math.isfinite(message.quarantine_s):
        return 0.0
    return min(max(message.quarantine_s, 0.0), MAX_QUARANTINE_S)


def _tokens(field: str, values: Sequence[int], terms: Terms) -> tuple[int, ...]:
    if len(values) > MAX_CONTEXT_TOKENS:
        limit = f"at most {MAX_CONTEXT_TOKENS} tokens"
        raise PacelineError(
            Reason.PROMPT_TOO_LONG,
            f"{field} has {len(values)}; it must have {limit}",
            field=field,
            limit=limit,
        )
    tokens = tuple(values)
    if tokens and max(tokens) >= terms.vocab_size:
        raise _out_of_vocabulary(field, terms)
    return tokens


def _out_of_vocabulary(field: str, terms: Terms) -> PacelineError:
    # Which token is not said: it is part of somebody's text.
    limit = f"less than the vocabulary's {terms.vocab_size}"
    return PacelineError(
        Reason.TOKEN_OUT_OF_VOCABULARY,
        f"{field} has a token id that is too large; it must be {limit}",
        field=field,
    )


def _sampling(message: types_pb2.Sampling) -> Sampling:
    return Sampling(
        temperature=message.temperature,
        top_k=message.top_k,
        top_p=message.top_p if message.HasField("top_p") else 1.0,
        min_p=message.min_p,
        seed=message.seed,
    )


def _top_k(message: drafting_pb2.TopK, terms: Terms) -> TopK | None:
    rows, k = len(message.tokens), message.k
    if not rows:
        return None
    if not 1 <= k <= terms.commit_top_k:
        raise out_of_range("commit.top_k.k", k, f"in 1 … {terms.commit_top_k}, the k of welcome")
    if rows > MAX_TOP_K_ROWS:
        raise out_of_range("commit.top_k.tokens", f"{rows} rows", f"at most {MAX_TOP_K_ROWS} rows")
    if len(message.successors) != rows * k:
        raise PacelineError(
            Reason.MALFORMED,
            f"commit.top_k.successors has {len(message.successors)} entries; it must have {rows * k}",
            field="commit.top_k.successors",
        )
    tokens = np.array(tuple(message.tokens), dtype=np.int64)
    successors = np.array(tuple(message.successors), dtype=np.int64)
    if max(tokens.max(), successors.max()) >= terms.vocab_size:
        raise _out_of_vocabulary("commit.top_k", terms)
    return TopK(tokens, successors.reshape(rows, k))
