"""Who made a revision: ed25519 over its manifest, which vouches for every other byte.

A trainer's store keeps signatures and checks none: it has no key. Whoever runs a drafter gives it the public key of
those whose revisions it shall run. Needs the package `cryptography` (extra `signed`), imported when a key is used.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason
from paceline.wire.revision import manifest_json
from paceline.wire.revision_folder import SIGNATURE_BYTES
from paceline.wire.settings import StartupError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

MAX_KEY_BYTES = 4096
Verify = Callable[[trainer_pb2.RevisionManifest, bytes], None]
Sign = Callable[[trainer_pb2.RevisionManifest], bytes]


def new_key() -> tuple[bytes, bytes]:
    """A new private key and its public one, both PEM; the private one is not encrypted (PKCS #8)."""
    ed25519, serialization = _cryptography()
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return private, public


def signer(path: Path) -> Sign:
    """Signs manifests with the private key of a PEM file. Raises StartupError if it is none."""
    ed25519, serialization = _cryptography()
    content = _content(path)
    try:
        key: Ed25519PrivateKey = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        raise StartupError(f"{path}: no private key in PEM without a password; make one with keygen") from error
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise StartupError(f"{path}: not an ed25519 key; make one with keygen")
    return lambda manifest: key.sign(manifest_json(manifest).encode())


def verifier(path: Path) -> Verify:
    """Checks signatures with the public key of a PEM file. Raises StartupError if it is none.

    What it gives takes a manifest and a signature, and raises UNSIGNED unless the key's owner signed just that.
    """
    ed25519, serialization = _cryptography()
    content = _content(path)
    try:
        key: Ed25519PublicKey = serialization.load_pem_public_key(content)
    except ValueError as error:
        raise StartupError(f"{path}: no public key in PEM; keygen wrote it beside the private one") from error
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise StartupError(f"{path}: not an ed25519 key; keygen makes them")
    return lambda manifest, signature: _verify(key, manifest, signature)


def write_private(path: Path, content: bytes) -> None:
    """A new file that its owner alone can read. Raises FileExistsError: a key that is in use must not be lost."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _verify(key: Ed25519PublicKey, manifest: trainer_pb2.RevisionManifest, signature: bytes) -> None:
    from cryptography.exceptions import InvalidSignature

    if not signature:
        raise _unsigned("nothing", "the revision is not signed")
    try:
        key.verify(signature, manifest_json(manifest).encode())
    except InvalidSignature as error:
        found = f"{len(signature)} bytes" if len(signature) != SIGNATURE_BYTES else signature.hex()[:16]
        raise _unsigned(found, "the revision was not signed with the key of --public-key") from error


def _unsigned(found: str, why: str) -> PacelineError:
    return PacelineError(
        Reason.UNSIGNED,
        f"{why}; publish it with --sign and the private key, or leave --public-key out",
        field="signature",
        value=found,
        limit="a signature by the key of --public-key",
    )


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except OSError as error:
        raise StartupError(f"{path}: {error.strerror}") from error


def _cryptography() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ModuleNotFoundError as error:
        raise StartupError("signatures need the package cryptography: pip install 'paceline-protos[signed]'") from error
    return ed25519, serialization
