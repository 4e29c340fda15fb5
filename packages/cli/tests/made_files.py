"""Files as others leave them: a model, a certificate from the past, what is left of a wheel."""

from __future__ import annotations

import datetime
import json
import struct
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_PEM = serialization.Encoding.PEM


def safetensors(num_bytes: int = 512) -> bytes:
    """One tensor of 16-bit zeros."""
    header = {"w": {"dtype": "BF16", "shape": [num_bytes // 2], "data_offsets": [0, num_bytes]}, "__metadata__": {}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(num_bytes)


def make_model(folder: Path) -> Path:
    """What is looked at of one; it can't be loaded."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(safetensors())
    return folder


def gguf(num_bytes: int = 64) -> bytes:
    """One tensor of 4 x 2 numbers, and a key of each kind."""

    def string(text: str) -> bytes:
        return struct.pack("<Q", len(text)) + text.encode()

    keys = [
        string("number") + struct.pack("<II", 4, 7),
        string("text") + struct.pack("<I", 8) + string("llama"),
        string("numbers") + struct.pack("<IIQ", 9, 6, 2) + bytes(8),
        string("texts") + struct.pack("<IIQ", 9, 8, 2) + string("a") + string("b"),
    ]
    tensor = string("w") + struct.pack("<IQQIQ", 2, 4, 2, 0, 0)
    header = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys) + tensor
    return header + bytes(num_bytes)


def expired_pair(folder: Path) -> tuple[Path, Path]:
    """A certificate that vouches for itself and ended a day ago, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "old")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * day)
        .not_valid_after(now - day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "old.cert.pem", folder / "old.key.pem"
    paths[0].write_bytes(certificate.public_bytes(_PEM))
    paths[1].write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


def make_wheel(site: Path, name: str, version: str, *requirements: str) -> None:
    """What an installed wheel leaves: its metadata."""
    folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requirements]
    (folder / "METADATA").write_text("\n".join(lines) + "\n")
