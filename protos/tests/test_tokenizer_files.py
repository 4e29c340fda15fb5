"""A tokenizer's files say what it is, not how it was loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paceline.wire.tokenizer_files import CONFIG, HOW_IT_WAS_LOADED, tokenizer_files


class Saved:
    """Writes what a transformers tokenizer would."""

    def __init__(self, config: dict[str, Any] | None, **others: bytes) -> None:
        self._config, self._others = config, others

    def save_pretrained(self, save_directory: str) -> None:
        folder = Path(save_directory)
        if self._config is not None:
            (folder / CONFIG).write_text(json.dumps(self._config))
        for name, content in self._others.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)


def test_files_come_by_path_in_order_as_they_are() -> None:
    files = tokenizer_files(Saved(None, vocab=b"v", templates__a=b"\xff", added=b""))
    assert list(files.items()) == [("added", b""), ("templates/a", b"\xff"), ("vocab", b"v")]


def test_the_config_loses_how_it_was_loaded_and_nothing_else() -> None:
    config = {"unk_token": "é", "model_max_length": 10**30, "extra": {"is_local": True}}
    plain = tokenizer_files(Saved(config))[CONFIG]
    assert json.loads(plain) == config
    for offline in (True, False):
        loaded = {**dict.fromkeys(HOW_IT_WAS_LOADED, offline), **dict(reversed(config.items()))}
        assert tokenizer_files(Saved(loaded))[CONFIG] == plain
