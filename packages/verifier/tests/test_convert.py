"""Each bad request is refused with its reason, field, value and limit; a good one arrives as it was meant."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tiny_models import VOCAB, make_tokenizer

from paceline.v1 import generation_pb2, types_pb2
from paceline.verifier.convert import MAX_STOP_LENGTH, MAX_STOPS, Limits, request_from_proto
from paceline.verifier.model.tokenizer import TargetTokenizer
from paceline.verifier.request import Request, Speculation
from paceline.verifier.sampling import Sampling
from paceline.wire.errors import PacelineError, Reason

LIMITS = Limits(vocab_size=VOCAB, context_length=64, max_tokens=40, default_max_tokens=30, max_nodes=16)
TOKENIZER = TargetTokenizer(make_tokenizer())


def convert(within: Limits = LIMITS, tokenizer: TargetTokenizer = TOKENIZER, **fields: Any) -> Request:
    if not fields.keys() & {"text", "messages", "token_ids", "bare"}:
        fields["token_ids"] = ids(5, 6, 7)
    fields.pop("bare", None)
    message = generation_pb2.GenerateRequest(**fields)
    return request_from_proto(message, within, tokenizer.tokenize, tokenizer.apply_chat_template)


def ids(*tokens: int) -> types_pb2.TokenIds:
    return types_pb2.TokenIds(ids=tokens)


def chat(*pairs: tuple[str, str]) -> types_pb2.ChatMessages:
    return types_pb2.ChatMessages(messages=[types_pb2.ChatMessage(role=role, content=text) for role, text in pairs])


def sampling(**fields: Any) -> dict[str, Any]:
    return {"sampling": types_pb2.Sampling(**fields)}


def limits(**fields: Any) -> dict[str, Any]:
    return {"limits": types_pb2.Limits(**fields)}


def speculation(**fields: Any) -> dict[str, Any]:
    return {"speculation": types_pb2.Speculation(**fields)}


def log_probs(top: int) -> generation_pb2.LogProbsRequest:
    return generation_pb2.LogProbsRequest(top=top)


def steps(max_nodes: int) -> generation_pb2.StepsRequest:
    return generation_pb2.StepsRequest(max_nodes=max_nodes)


def schema(text: str) -> dict[str, Any]:
    return {"constraint": generation_pb2.Constraint(json_schema=text)}


BAD = [
    ({"bare": True}, Reason.EMPTY_PROMPT, "prompt", "0", "at least 1"),
    ({"text": ""}, Reason.EMPTY_PROMPT, "text", "0", "at least 1"),
    ({"messages": chat()}, Reason.EMPTY_PROMPT, "messages", "0", "at least 1"),
    ({"token_ids": ids()}, Reason.EMPTY_PROMPT, "token_ids", "0", "at least 1"),
    ({"token_ids": ids(*[5] * 64)}, Reason.PROMPT_TOO_LONG, "prompt", "64", "63"),
    ({"token_ids": ids(5, VOCAB)}, Reason.TOKEN_OUT_OF_VOCABULARY, "prompt", str(VOCAB), str(VOCAB)),
    ({"committed": ids(2**32 - 1)}, Reason.TOKEN_OUT_OF_VOCABULARY, "committed", str(2**32 - 1), str(VOCAB)),
    ({"committed": ids(*[5] * 31)}, Reason.OUT_OF_RANGE, "committed", "31 tokens", "at most max_tokens (30)"),
    ({"messages": chat(("wizard", "hello"))}, Reason.MALFORMED, "messages", None, None),
    (sampling(temperature=-0.1), Reason.OUT_OF_RANGE, "sampling.temperature", "-0.1", "in [0, 100]"),
    (sampling(temperature=math.nan), Reason.OUT_OF_RANGE, "sampling.temperature", "nan", "in [0, 100]"),
    (sampling(temperature=math.inf), Reason.OUT_OF_RANGE, "sampling.temperature", "inf", "in [0, 100]"),
    (sampling(temperature=100.5), Reason.OUT_OF_RANGE, "sampling.temperature", "100.5", "in [0, 100]"),
    (sampling(top_p=0.0), Reason.OUT_OF_RANGE, "sampling.top_p", "0.0", "in (0, 1]"),
    (sampling(top_p=1.1), Reason.OUT_OF_RANGE, "sampling.top_p", "1.1", "in (0, 1]"),
    (sampling(top_p=math.nan), Reason.OUT_OF_RANGE, "sampling.top_p", "nan", "in (0, 1]"),
    (sampling(min_p=1.0), Reason.OUT_OF_RANGE, "sampling.min_p", "1.0", "in [0, 1)"),
    (sampling(min_p=-0.5), Reason.OUT_OF_RANGE, "sampling.min_p", "-0.5", "in [0, 1)"),
    (sampling(min_p=math.nan), Reason.OUT_OF_RANGE, "sampling.min_p", "nan", "in [0, 1)"),
    (limits(max_tokens=41), Reason.OUT_OF_RANGE, "limits.max_tokens", "41", "at most 40"),
    (
        {"token_ids": ids(*[5] * 30), **limits(max_tokens=35)},
        Reason.OUT_OF_RANGE,
        "limits.max_tokens",
        "35",
        "at most 34: the context holds 64",
    ),
    (limits(stop=["a"] * (MAX_STOPS + 1)), Reason.OUT_OF_RANGE, "limits.stop", "17 strings", "at most 16"),
    (limits(stop=["fine", ""]), Reason.OUT_OF_RANGE, "limits.stop", "an empty string", "at least one character"),
    (limits(stop=["a" * (MAX_STOP_LENGTH + 1)]), Reason.OUT_OF_RANGE, "limits.stop", "257 characters", "at most 256"),
    (speculation(off=True, drafters=["suffix"]), Reason.MALFORMED, "speculation", None, None),
    (speculation(drafters=["d"] * 17), Reason.OUT_OF_RANGE, "speculation.drafters", "17 entries", "at most 16"),
    (speculation(drafters=["d" * 201]), Reason.OUT_OF_RANGE, "speculation.drafters", "201 characters", "at most 200"),
    ({"log_probs": log_probs(21)}, Reason.OUT_OF_RANGE, "log_probs.top", "21", "at most 20"),
    ({"constraint": generation_pb2.Constraint()}, Reason.MALFORMED, "constraint", None, None),
    (schema("x" * 65537), Reason.OUT_OF_RANGE, "constraint.json_schema", "65537 bytes", "at most 65536 bytes"),
    (schema("é" * 32769), Reason.OUT_OF_RANGE, "constraint.json_schema", "65538 bytes", "at most 65536 bytes"),
    (schema("{}") | limits(ignore_eos=True), Reason.MALFORMED, "limits.ignore_eos", None, None),
    (speculation(max_nodes=17), Reason.OUT_OF_RANGE, "speculation.max_nodes", "17", "at most 16"),
    ({"tenant": "t" * 201}, Reason.OUT_OF_RANGE, "tenant", "201 characters", "at most 200"),
    ({"request_id": "r" * 201}, Reason.OUT_OF_RANGE, "request_id", "201 characters", "at most 200"),
    ({"messages": chat(*[("user", "")] * 1025)}, Reason.OUT_OF_RANGE, "messages", "1025 messages", "at most 1024"),
    ({"text": "a" * (4 * 2**20 + 1)}, Reason.OUT_OF_RANGE, "text", "4194305 characters", "at most 4194304"),
    ({"messages": chat(("r" * (4 * 2**20), "x"))}, Reason.OUT_OF_RANGE, "messages", "4194305", "at most 4194304"),
    ({"steps": steps(257)}, Reason.OUT_OF_RANGE, "steps.max_nodes", "257", "at most 256"),
    ({"steps": steps(2**32 - 1)}, Reason.OUT_OF_RANGE, "steps.max_nodes", str(2**32 - 1), "at most 256"),
]


@pytest.mark.parametrize(("fields", "reason", "field", "value", "limit"), BAD, ids=range(len(BAD)))
def test_a_bad_request_is_refused_with_reason_field_value_and_limit(fields, reason, field, value, limit):
    with pytest.raises(PacelineError) as caught:
        convert(**fields)
    error = caught.value
    assert (error.reason, error.field) == (reason, field)
    told = error.metadata()
    for key, expected in (("value", value), ("limit", limit)):
        if expected is not None:
            assert expected in told[key]
    if value is not None and reason is not Reason.EMPTY_PROMPT:
        assert told["value"] in error.message


def test_without_a_chat_template_messages_are_refused_and_text_is_not():
    plain = TargetTokenizer(make_tokenizer(chat_template=None))
    with pytest.raises(PacelineError) as caught:
        convert(tokenizer=plain, messages=chat(("user", "hello")))
    assert caught.value.reason is Reason.NO_CHAT_TEMPLATE
    assert convert(tokenizer=plain, text="hello").prompt == tuple(plain.tokenize("hello"))


def test_a_good_request_arrives_as_it_was_meant():
    request = convert(
        text="the dog",
        **sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1, seed=2**64 - 1),
        **limits(max_tokens=9, stop=["a", "b"], ignore_eos=True),
        **speculation(drafters=["x", "y"], max_nodes=7),
        tenant="t",
        request_id="r",
        no_store=True,
        committed=ids(8, 9),
        segment_tokens=3,
    )
    assert request.prompt == tuple(make_tokenizer()("the dog")["input_ids"])
    assert request.sampling == Sampling(0.7, 5, 0.9, 0.1, 2**64 - 1)
    assert (request.max_tokens, request.stop, request.ignore_eos) == (9, ("a", "b"), True)
    assert request.speculation == Speculation(("x", "y"), 7)
    assert (request.tenant, request.request_id, request.no_store) == ("t", "r", True)
    assert (request.committed, request.segment_tokens) == ((8, 9), 3)
    assert (request.log_probs, request.json_schema, request.steps) == (None, None, None)
    longest = "x" * 65536
    request = convert(log_probs=log_probs(20), **schema(longest))
    assert (request.log_probs, request.json_schema) == (20, longest)
    assert convert(log_probs=log_probs(0)).log_probs == 0
    assert [convert(steps=steps(most)).steps for most in (0, 1, 256)] == [64, 1, 256]


def test_what_is_left_unset_has_its_default():
    one, two = convert(), convert()
    assert one.sampling.temperature == 0.0
    assert (one.sampling.top_p, one.sampling.min_p) == (1.0, 0.0)
    assert one.sampling.seed != two.sampling.seed
    assert one.request_id != two.request_id
    assert one.max_tokens == 30
    assert one.speculation == Speculation(None, 0)
    assert convert(**speculation(off=True)).speculation.drafters == ()
    assert convert(token_ids=ids(*[5] * 60)).max_tokens == 4
    low = Limits(VOCAB, 64, max_tokens=10, default_max_tokens=30, max_nodes=16)
    assert convert(low).max_tokens == 10


def test_most_tokens_bounds_the_default_and_nothing_else():
    assert convert(most_tokens=7).max_tokens == 7
    assert convert(most_tokens=1000).max_tokens == 30
    assert convert(most_tokens=1000, token_ids=ids(*[5] * 60)).max_tokens == 4
    assert convert(most_tokens=7, **limits(max_tokens=9)).max_tokens == 9
    with pytest.raises(PacelineError) as caught:
        convert(most_tokens=0)
    assert (caught.value.reason, caught.value.field) == (Reason.OUT_OF_RANGE, "most_tokens")


def test_a_conversation_ends_with_the_assistants_turn_and_special_tokens_are_single():
    request = convert(messages=chat(("user", "the dog")))
    core = make_tokenizer()
    expected = [*core.convert_tokens_to_ids(["<|user|>"]), *core("the dog")["input_ids"]]
    assert request.prompt == (*expected, core.convert_tokens_to_ids("<|assistant|>"))
