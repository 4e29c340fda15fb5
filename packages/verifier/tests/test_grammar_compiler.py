"""Schemas of strangers: compiled or refused in one line, and none holds up the others."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from json_documents import SCHEMAS, encoded, target_tokenizer
from tiny_models import EOS, VOCAB

from paceline.verifier.grammar import compiler as module
from paceline.verifier.grammar.compiler import Compiler
from paceline.verifier.grammar.schema import BadSchema, checked
from paceline.wire.errors import PacelineError, Reason

GOOD = json.dumps(SCHEMAS["object"])
# All of these patterns must hold at once; llguidance looks for a text for which they do, without end.
ENDLESS = json.dumps({"allOf": [{"type": "string", "pattern": f".*a.{{{count}}}b.*"} for count in range(30)]})
BAD = {
    "no JSON": ("nope", "it is no JSON"),
    "nothing": ("", "it is no JSON"),
    "no object": ("[1]", "a schema is a JSON object"),
    "no number": ('{"const": NaN}', "NaN is no number of JSON"),
    "long number": ('{"const": %s}' % ("1" * 5000), "it is no JSON"),
    "deep": ("[" * 30_000, "it is nested too deeply"),
    "quite deep": ('{"items":' * 400 + "{}" + "}" * 400, "recursion limit"),
    "no type": ('{"type": "objekt"}', "Invalid type: objekt"),
    "not admitted": ('{"not": {"type": "string"}}', "Unimplemented keys"),
    "elsewhere": ('{"$ref": "http://127.0.0.1:1/x"}', "not present in a registry"),
    "nowhere": ('{"$ref": "#/definitions/none"}', "does not exist"),
    "itself": ('{"$ref": "#"}', "NoExtensionBias"),
    "nothing fits": ('{"enum": []}', "Unsatisfiable schema"),
    "breaks out": ('{}}], "max_tokens": 3, "x": [{"y": {}', "it is no JSON"),
    "look-around": ('{"type": "string", "pattern": "(?=a)b"}', "look-around"),
    "half a pair": ('{"const": "\\ud800"}', ""),
}


def make_compiler() -> Compiler:
    return Compiler(target_tokenizer().contents, VOCAB, frozenset({EOS}))


async def refusal(call: Any) -> PacelineError:
    with pytest.raises(PacelineError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_schema_is_refused_in_one_line_that_says_why(name):
    schema, why = BAD[name]
    error = await refusal(make_compiler().constraint(schema))
    assert (error.reason, error.field) == (Reason.MALFORMED, "constraint.json_schema")
    assert why in error.message
    assert len(error.message.splitlines()) == 1
    assert len(error.message) < 500


async def test_a_schema_that_would_take_for_ever_is_stopped_while_others_are_compiled():
    compiler = make_compiler()
    await compiler.constraint(GOOD)
    endless = asyncio.create_task(refusal(compiler.constraint(ENDLESS)))
    await asyncio.sleep(0)
    constraint = await compiler.constraint(GOOD)
    assert constraint.admits(encoded('{"name":'))
    await compiler.constraint("{}")
    assert not endless.done()
    error = await endless
    assert (error.reason, error.field) == (Reason.MALFORMED, "constraint.json_schema")
    assert "it takes too long" in error.message


async def test_without_room_for_a_process_one_is_asked_to_come_again(monkeypatch):
    async def no_process(*_command: str, **_options: Any) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(module.asyncio, "create_subprocess_exec", no_process)
    error = await refusal(make_compiler().constraint("{}"))
    assert (error.reason, error.retry_after_s) == (Reason.OVERLOADED, 1.0)


async def test_what_makes_the_trial_fail_is_refused(monkeypatch):
    monkeypatch.setattr(module, "TRIAL", "paceline.verifier.grammar.no_such_module")
    error = await refusal(make_compiler().constraint("{}"))
    assert (error.reason, error.field) == (Reason.MALFORMED, "constraint.json_schema")
    assert "fails on it" in error.message


async def test_a_request_that_goes_away_takes_its_trial_along(monkeypatch):
    started: list[asyncio.subprocess.Process] = []
    create = asyncio.create_subprocess_exec

    async def noted(*command: str, **options: Any) -> asyncio.subprocess.Process:
        started.append(await create(*command, **options))
        return started[-1]

    monkeypatch.setattr(module.asyncio, "create_subprocess_exec", noted)
    compiler = make_compiler()
    asking = asyncio.create_task(compiler.constraint(ENDLESS))
    while not started:
        await asyncio.sleep(0.005)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert started[0].returncode is not None
    assert compiler._num_waiting == 0


async def test_a_schema_is_tried_once(monkeypatch):
    tried: list[str] = []

    async def noted(schema: str) -> None:
        tried.append(schema)

    monkeypatch.setattr(module, "_try", noted)
    monkeypatch.setattr(module, "MAX_TRIED", 2)
    compiler = make_compiler()
    for schema in ("{}", "{ }", GOOD, '{"type": "null"}', GOOD, "{}"):
        await compiler.constraint(schema)
    assert tried == ["{}", checked(GOOD), '{"type": "null"}', "{}"]


async def test_too_many_that_wait_are_refused(monkeypatch):
    gate = asyncio.Event()

    async def held(_schema: str) -> None:
        await gate.wait()

    monkeypatch.setattr(module, "_try", held)
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    compiler = make_compiler()
    waiting = [asyncio.create_task(compiler.constraint("{}")) for _ in range(2)]
    await asyncio.sleep(0)
    error = await refusal(compiler.constraint("{}"))
    assert (error.reason, error.limit, error.retry_after_s) == (Reason.OVERLOADED, 2, 1.0)
    gate.set()
    await asyncio.gather(*waiting)
    await compiler.constraint("{}")


async def test_committed_tokens_go_on_or_are_refused_by_their_name():
    compiler = make_compiler()
    begun = encoded('{"name":"x')
    constraint = await compiler.constraint(GOOD, begun)
    assert constraint.admits(encoded('","age":3'))
    error = await refusal(compiler.constraint(GOOD, [*begun, *encoded('"}')]))
    assert (error.reason, error.field) == (Reason.MALFORMED, "committed")
    assert "can't follow by constraint.json_schema" in error.message


@pytest.mark.parametrize(
    "compiler",
    [
        Compiler({}, VOCAB, frozenset({EOS})),
        Compiler({"tokenizer.json": b"{}"}, VOCAB, frozenset({EOS})),
        Compiler({"tokenizer.json": target_tokenizer().contents["tokenizer.json"]}, VOCAB, frozenset()),
    ],
    ids=["no file", "no tokenizer", "no end of sequence"],
)
async def test_a_target_whose_tokenizer_can_not_be_constrained_says_so(compiler):
    error = await refusal(compiler.constraint("{}"))
    assert error.reason is Reason.VOCABULARY_MISMATCH


def test_blanks_have_a_bound_and_the_schema_is_nothing_but_json():
    with pytest.raises(BadSchema):
        checked("true")
    assert checked(' {"b": 1, "a": "ü"} ') == '{"b": 1, "a": "\\u00fc"}'


async def test_documents_may_be_dense_or_indented_but_not_blank_for_ever():
    for text in ('{"name":"x","age":3,"happy":true}', '{\n    "name": "x",\n    "age": 3,\n    "happy": true\n}'):
        schema = {key: value for key, value in SCHEMAS["object"].items() if key != "x-guidance"}
        assert (await make_compiler().constraint(json.dumps(schema))).admits(encoded(text))
    constraint = await make_compiler().constraint(json.dumps(schema))
    assert not constraint.admits(encoded("{\n\n"))
    assert not constraint.admits(encoded("{\n" + " " * 65))
