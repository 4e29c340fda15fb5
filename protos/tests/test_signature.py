"""Signatures: only the key's owner can make them, for one manifest each."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.settings import StartupError
from paceline.wire.signature import new_key, signer, verifier, write_private

MANIFEST = trainer_pb2.RevisionManifest(drafter="tiny", metrics={"acceptance": 0.5})


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("a", "b"):
        private, public = new_key()
        write_private(folder / name, private)
        (folder / f"{name}.pub").write_bytes(public)
    return folder


def test_what_the_owner_signed_passes_and_nothing_else_does(keys: Path) -> None:
    signature = signer(keys / "a")(MANIFEST)
    assert len(signature) == 64
    verifier(keys / "a.pub")(MANIFEST, signature)
    other = trainer_pb2.RevisionManifest(drafter="tiny", metrics={"acceptance": 0.6})
    for verify, manifest, found in (
        (verifier(keys / "a.pub"), MANIFEST, b""),
        (verifier(keys / "a.pub"), MANIFEST, signature[:-1]),
        (verifier(keys / "a.pub"), other, signature),
        (verifier(keys / "b.pub"), MANIFEST, signature),
    ):
        with pytest.raises(PacelineError) as refusal:
            verify(manifest, found)
        assert (refusal.value.reason, refusal.value.field) == (Reason.UNSIGNED, "signature")


@settings(max_examples=50, deadline=None)
@given(bit=st.integers(0, 511))
def test_no_bit_of_a_signature_may_differ(keys: Path, bit: int) -> None:
    signature = bytearray(signer(keys / "a")(MANIFEST))
    signature[bit // 8] ^= 1 << bit % 8
    with pytest.raises(PacelineError, match="not signed with the key"):
        verifier(keys / "a.pub")(MANIFEST, bytes(signature))


def test_a_private_key_is_its_owners_alone_and_never_overwritten(keys: Path) -> None:
    assert (keys / "a").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FileExistsError):
        write_private(keys / "a", b"")


def test_what_is_no_key_is_said_in_a_line(keys: Path) -> None:
    for make, name, says in (
        (signer, "a.pub", "no private key"),
        (verifier, "a", "no public key"),
        (signer, "nowhere", "No such file"),
        (verifier, "nowhere", "No such file"),
    ):
        with pytest.raises(StartupError, match=says):
            make(keys / name)
