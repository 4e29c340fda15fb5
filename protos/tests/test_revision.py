from __future__ import annotations

import hashlib

from paceline.v1 import trainer_pb2, types_pb2
from paceline.wire.revision import manifest_json, revision_id


def manifest() -> trainer_pb2.RevisionManifest:
    return trainer_pb2.RevisionManifest(
        drafter="tiny",
        model="m",
        format="onnx",
        metrics={"b": 2.0, "a": 0.1},
        files=[types_pb2.FileInfo(path="w/ü.bin", size=3, sha256=bytes(range(32)))],
    )


def test_the_canonical_form_is_pinned() -> None:
    expected = (
        '{"command":"","drafter":"tiny","files":[{"path":"w/\\u00fc.bin","sha256":'
        '"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f","size":3}],"format":"onnx",'
        '"metrics":{"a":0.1,"b":2.0},"model":"m","parent":"","tokenizer_hash":""}'
    )
    assert manifest_json(manifest()) == expected
    assert revision_id(manifest()) == hashlib.sha256(expected.encode()).hexdigest()


def test_the_id_survives_the_wire_and_changes_with_any_field() -> None:
    again = trainer_pb2.RevisionManifest.FromString(manifest().SerializeToString())
    assert revision_id(again) == revision_id(manifest())
    for field, value in (("drafter", "x"), ("parent", "x"), ("command", "x"), ("tokenizer_hash", "x")):
        other = manifest()
        setattr(other, field, value)
        assert revision_id(other) != revision_id(manifest())
