"""Commands that talk to a trainer: fetch a revision, list revisions, withdraw one; and what all commands share."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import grpc
from google.protobuf import json_format
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from paceline.trainer.incoming import Incoming
from paceline.trainer.manifest import check_manifest, check_signature
from paceline.trainer.settings import FetchSettings, RemoteSettings, RevisionsSettings, WithdrawSettings
from paceline.v1 import trainer_pb2, trainer_pb2_grpc
from paceline.wire.channel import connect
from paceline.wire.errors import PacelineError
from paceline.wire.revision import MANIFEST, manifest_json, revision_id
from paceline.wire.revision_folder import SIGNATURE
from paceline.wire.settings import StartupError
from paceline.wire.status import from_rpc_error

T = TypeVar("T")

BAR_AFTER_S = 2.0
ID_LENGTH = 64
SHOWN_LENGTH = 16
CALL_TIMEOUT_S = 30.0


class Bar:
    """A progress bar on standard error, if that is a terminal and the work takes longer than people like to wait.

    total: in bytes; may be set once it is known.
    """

    def __init__(self, title: str, total: int = 0) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        console = Console(stderr=True)
        self.total = total
        self._progress = Progress(
            *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._task = self._progress.add_task(title, total=None)
        self._begun_s = time.monotonic()

    def __enter__(self) -> Bar:
        return self

    def advance(self, num_bytes: int) -> None:
        self._progress.update(self._task, advance=num_bytes, total=self.total)
        if not self._progress.live.is_started and time.monotonic() - self._begun_s > BAR_AFTER_S:
            self._progress.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress.live.is_started:
            self._progress.stop()


def fetch(settings: FetchSettings) -> int:
    """Fetches a revision into a new folder: whole and checked, or not at all."""
    out = settings.out
    if out.exists():
        raise StartupError(f"--out {out} exists; choose a folder that doesn't")

    async def call(trainer: trainer_pb2_grpc.TrainerStub) -> None:
        name = await full_id(trainer, settings.revision)
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.absolute().parent, prefix=".fetching-") as folder:
            incoming, revision = await receive(trainer, name, Path(folder) / "files")
            incoming.place(out.absolute(), files_beside(revision))

    run_call(settings, call)
    print(out)
    return 0


async def full_id(trainer: trainer_pb2_grpc.TrainerStub, beginning: str) -> str:
    """The one revision_id that begins so. Raises StartupError for none or several."""
    if len(beginning) >= ID_LENGTH:
        return beginning
    names = [item.revision_id for item in await list_all(trainer, "") if item.revision_id.startswith(beginning)]
    if len(names) != 1:
        raise StartupError(
            f"--revision {beginning}: {len(names)} revisions begin so; 'revisions --json' shows whole ids"
        )
    return names[0]


def files_beside(revision: trainer_pb2.Revision) -> dict[str, bytes]:
    """What lies beside the files of a revision in a folder that drafters take and `publish` takes back."""
    signature = {SIGNATURE: revision.signature} if revision.signature else {}
    return {MANIFEST: manifest_json(revision.manifest).encode(), **signature}


async def receive(
    trainer: trainer_pb2_grpc.TrainerStub, name: str, folder: Path
) -> tuple[Incoming, trainer_pb2.Revision]:
    """A revision's files, written into `folder` and complete once placed; and what the trainer says of it.

    Raises PacelineError or StartupError if a byte differs from what `name` vouches for: the trainer isn't trusted.
    """
    incoming: Incoming | None = None
    revision = trainer_pb2.Revision()
    with Bar("fetching") as bar:
        async for response in trainer.FetchRevision(trainer_pb2.FetchRevisionRequest(revision_id=name)):
            if incoming is not None:
                await asyncio.to_thread(incoming.write, response.chunk)
                bar.advance(len(response.chunk))
                continue
            revision = response.revision
            manifest = revision.manifest
            check_manifest(manifest)
            check_signature(revision.signature)
            if revision_id(manifest) != name:
                raise StartupError(f"the trainer sent another revision than {name}")
            bar.total = sum(file.size for file in manifest.files)
            incoming = Incoming(manifest, folder, file_mode=0o666, folder_mode=0o777)
    if incoming is None:
        raise StartupError("the trainer sent nothing")
    return incoming, revision


async def list_all(trainer: trainer_pb2_grpc.TrainerStub, drafter: str) -> list[trainer_pb2.Revision]:
    """Every revision of a line, or of all, newest first."""
    found: list[trainer_pb2.Revision] = []
    token = ""
    while True:
        request = trainer_pb2.ListRevisionsRequest(drafter=drafter, page_token=token)
        response = await trainer.ListRevisions(request, timeout=CALL_TIMEOUT_S)
        found.extend(response.revisions)
        token = response.next_page_token
        if not token:
            return found


def withdraw(settings: WithdrawSettings) -> int:
    """Takes a revision out of use; prints its id."""

    async def call(trainer: trainer_pb2_grpc.TrainerStub) -> trainer_pb2.WithdrawRevisionResponse:
        name = await full_id(trainer, settings.revision)
        request = trainer_pb2.WithdrawRevisionRequest(revision_id=name, reason=settings.reason)
        return await trainer.WithdrawRevision(request, timeout=CALL_TIMEOUT_S)

    print(run_call(settings, call).revision.revision_id)
    return 0


def revisions(settings: RevisionsSettings) -> int:
    """Lists revisions."""
    found = run_call(settings, lambda trainer: list_all(trainer, settings.drafter))
    if settings.json_output:
        for revision in found:
            print(json.dumps(json_format.MessageToDict(revision, preserving_proto_field_name=True)))
        return 0
    Console().print(revisions_table(found))
    return 0


def revisions_table(found: list[trainer_pb2.Revision]) -> Table:
    """For people: the beginning of each id is enough for `fetch`."""
    table = Table(
        "revision", "published", "drafter", "model", "format", "files", "MiB", "metrics", "signed", "withdrawn"
    )
    for revision in found:
        manifest = revision.manifest
        row = (
            revision.revision_id[:SHOWN_LENGTH],
            time.strftime("%Y-%m-%d %H:%M", time.localtime(revision.published_unix_s)),
            manifest.drafter,
            manifest.model,
            manifest.format,
            str(len(manifest.files)),
            f"{sum(file.size for file in manifest.files) / 2**20:.1f}",
            ", ".join(f"{name} {value:.3g}" for name, value in sorted(manifest.metrics.items())),
            "yes" if revision.signature else "",
            revision.withdrawn,
        )
        table.add_row(*(Text(cell) for cell in row))  # as text: others' names must not be read as markup
    return table


def run_call(settings: RemoteSettings, call: Callable[[trainer_pb2_grpc.TrainerStub], Awaitable[T]]) -> T:
    """Runs calls against the trainer; what goes wrong becomes one line."""

    async def connected() -> T:
        async with connect(settings.trainer, settings) as channel:
            return await call(trainer_pb2_grpc.TrainerStub(channel))

    try:
        return asyncio.run(connected())
    except grpc.aio.AioRpcError as error:
        refusal = from_rpc_error(error)
        raise StartupError(refusal.message if refusal else f"trainer {settings.trainer}: {error.details()}") from error
    except PacelineError as error:
        raise StartupError(error.message) from error
    except OSError as error:
        raise StartupError(f"{error.filename or 'disk'}: {error.strerror}") from error
