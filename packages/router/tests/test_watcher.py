"""The token file is read again when it changes, and what is broken changes nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from conftest import eventually
from structlog.testing import capture_logs
from token_files import ALICE, BOB, entry, tenants, write_tokens

from paceline.router.access.table import TokenTable
from paceline.router.access.token_file import TokenFileError
from paceline.router.access.watcher import Watcher


@asynccontextmanager
async def watching(path: Path, look_s: float = 0.01) -> AsyncIterator[tuple[Watcher, list[TokenTable]]]:
    tables: list[TokenTable] = []
    watcher = Watcher(path, b"s" * 32, tables.append, look_s)
    tables.append(watcher.first())
    watcher.start()
    try:
        yield watcher, tables
    finally:
        await watcher.close()


async def test_a_file_that_is_exchanged_or_written_to_is_read(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "tokens.yaml", tenants())
    async with watching(path) as (_, tables):
        write_tokens(path, {"carol": {"tokens": [entry(ALICE)]}})
        await eventually(lambda: len(tables) == 2)
        assert tables[-1].find(ALICE, 0.0).tenant == "carol"
        text = path.read_text()
        path.write_text(text.replace("carol", "david"))  # in place, as long as it was
        await eventually(lambda: tables[-1].limits.keys() == {"david"})


async def test_a_broken_file_keeps_what_was_and_is_said_once(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "tokens.yaml", tenants())
    async with watching(path) as (_, tables):
        with capture_logs() as logs:
            path.write_text(f"tenants: {{{BOB}")
            await eventually(lambda: logs)
            path.unlink()
            await eventually(lambda: len(logs) == 2)
            assert len(tables) == 1
            write_tokens(path, {"carol": {}})
            await eventually(lambda: len(tables) == 2)
    assert [one["log_level"] for one in logs] == ["error", "error", "info"]
    assert "no YAML" in logs[0]["why"]
    assert "can't be read" in logs[1]["why"]
    assert BOB not in str(logs)


async def test_sighup_reads_it_at_once(tmp_path: Path) -> None:
    path = write_tokens(tmp_path / "tokens.yaml", tenants())
    async with watching(path, look_s=3600.0) as (_, tables):
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: len(tables) == 2)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


def test_at_the_start_it_must_be_sound(tmp_path: Path) -> None:
    with pytest.raises(TokenFileError, match="can't be read"):
        Watcher(tmp_path / "none.yaml", b"s" * 32, lambda _table: None).first()
