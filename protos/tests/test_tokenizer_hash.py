"""The hash of a tokenizer: fixed for ever, since folders and revisions name it."""

from __future__ import annotations

import hashlib

from paceline.wire.tokenizer_hash import tokenizer_hash

FILES = [
    ("templates/a.jinja", hashlib.sha256(b"").digest()),
    ("templates.json", hashlib.sha256(b'"').digest()),
    ("tokenizer.json", hashlib.sha256(b"{}").digest()),
    ("tokenizer_config.json", hashlib.sha256(b"[]").digest()),
]


def test_the_hash_is_over_paths_and_hashes_folder_by_folder() -> None:
    plain = b"".join(path.encode() + b"\0" + sha256 for path, sha256 in FILES)
    assert tokenizer_hash(FILES) == tokenizer_hash(FILES[::-1]) == hashlib.sha256(plain).hexdigest()


def test_another_name_or_content_is_another_tokenizer() -> None:
    assert len({tokenizer_hash(FILES), tokenizer_hash(FILES[:1]), tokenizer_hash([(FILES[0][0], FILES[1][1])])}) == 3
