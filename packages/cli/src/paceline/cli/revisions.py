"""The command `revisions`: what a trainer has made, or was given."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from paceline.cli.asking import TIMEOUT_S, trainer_stub
from paceline.cli.command import AsJson, CommandError, UsageError, command
from paceline.cli.console import console, print_json
from paceline.cli.settings import TrainerSettings
from paceline.cli.tables import NOTHING, SHORT, Column, table_of
from paceline.v1 import trainer_pb2

PAGE = 1000
MAX_REVISIONS = 100_000
ID = re.compile(r"[0-9a-f]{1,64}")


@command
def revisions(
    settings: TrainerSettings,
    revision: Annotated[str, typer.Argument(help="An id, or enough of its beginning, to show all of one.")] = "",
    line: Annotated[str, typer.Option(help="Only this line of drafters, e.g. tiny_lm.")] = "",
    limit: Annotated[int, typer.Option(min=1, max=MAX_REVISIONS, help="At most so many, the newest first.")] = 20,
    as_json: AsJson = False,
) -> None:
    """List a trainer's revisions of drafters, newest first, or show one: parent, metrics, dates, files.

    A revision's id vouches for every byte of it. One that was withdrawn stays, and is served to nobody any more.
    """
    if revision and not ID.fullmatch(revision.lower()):
        raise UsageError(f"{revision!r} is no revision's id: those are hexadecimal, up to 64 digits")
    found = asyncio.run(_list(settings, line, MAX_REVISIONS if revision else limit))
    if revision:
        found = [_the_one(found, revision.lower())]
    if as_json:
        told = [to_json(one) for one in found]
        print_json(told[0] if revision else told)
    elif revision:
        console.print(_details(found[0]))
    else:
        console.print(_table(found, line))


async def _list(settings: TrainerSettings, line: str, limit: int) -> list[trainer_pb2.Revision]:
    found: list[trainer_pb2.Revision] = []
    async with trainer_stub(settings) as stub:
        token = ""
        while True:
            page_size = min(PAGE, limit - len(found))
            request = trainer_pb2.ListRevisionsRequest(drafter=line, page_size=page_size, page_token=token)
            page = await stub.ListRevisions(request, timeout=TIMEOUT_S)
            found += page.revisions
            token = page.next_page_token
            if not token or not page.revisions or len(found) >= limit:
                return found[:limit]


def _the_one(found: list[trainer_pb2.Revision], beginning: str) -> trainer_pb2.Revision:
    matching = [one for one in found if one.revision_id.startswith(beginning)]
    if not matching:
        raise CommandError(f"no revision's id begins with {beginning}; 'paceline revisions' lists them")
    if len(matching) > 1:
        ids = ", ".join(one.revision_id[: max(SHORT, len(beginning) + 4)] for one in matching[:3])
        raise CommandError(f"{len(matching)} revisions' ids begin with {beginning} ({ids}, …); give more of it")
    return matching[0]


def _table(found: list[trainer_pb2.Revision], line: str) -> RenderableType:
    columns: list[Column[trainer_pb2.Revision]] = [
        Column("revision", lambda one: one.revision_id[:SHORT]),
        Column("line", lambda one: one.manifest.drafter),
        Column("parent", lambda one: one.manifest.parent[:SHORT] or NOTHING),
        Column("published", lambda one: _date(one.published_unix_s)),
        Column("target", lambda one: one.manifest.model, rank=2),
        Column("format", lambda one: one.manifest.format, rank=4),
        Column("MB", lambda one: f"{_size(one) / 1e6:.1f}", right=True, rank=3),
        Column("metrics", lambda one: _metrics(one) or NOTHING, rank=1),
        Column("state", _state),
    ]
    return table_of("Revisions", columns, found, f"none{' of the line ' + line if line else ''} yet")


def _details(one: trainer_pb2.Revision) -> Table:
    manifest = one.manifest
    table = Table.grid(padding=(0, 2))
    rows = {
        "revision": one.revision_id,
        "line": manifest.drafter,
        "parent": manifest.parent or "none: it is the first",
        "state": _state(one),
        "published": _date(one.published_unix_s),
        "signed": "yes" if one.signature else "no",
        "target": manifest.model,
        "tokenizer": manifest.tokenizer_hash,
        "format": manifest.format,
        "command": manifest.command,
        "trained on": manifest.data or NOTHING,
        **{f"metric {name}": f"{value:.4g}" for name, value in sorted(manifest.metrics.items())},
        **{f"file {file.path}": f"{file.size} bytes" for file in manifest.files},
    }
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), value if isinstance(value, Text) else Text(value))
    return table


def _state(one: trainer_pb2.Revision) -> Text:
    return Text(f"withdrawn: {one.withdrawn}", style="yellow") if one.withdrawn else Text("in use", style="green")


def _metrics(one: trainer_pb2.Revision) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in sorted(one.manifest.metrics.items()))


def _size(one: trainer_pb2.Revision) -> int:
    return sum(file.size for file in one.manifest.files)


def _date(unix_s: float) -> str:
    try:
        return datetime.fromtimestamp(unix_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    except (OverflowError, ValueError, OSError):
        return NOTHING


def to_json(one: trainer_pb2.Revision) -> dict[str, Any]:
    """What --json prints of one."""
    manifest = one.manifest
    return {
        "revision_id": one.revision_id,
        "line": manifest.drafter,
        "parent": manifest.parent or None,
        "published_unix_s": one.published_unix_s,
        "withdrawn": one.withdrawn or None,
        "signed": bool(one.signature),
        "model": manifest.model,
        "tokenizer_hash": manifest.tokenizer_hash,
        "format": manifest.format,
        "command": manifest.command,
        "data": manifest.data or None,
        "metrics": dict(manifest.metrics),
        "files": [{"path": file.path, "size": file.size, "sha256": file.sha256.hex()} for file in manifest.files],
    }
