"""The revision store: immutable folders named by their content, published whole or not at all.

    revisions/<revision_id>/manifest.json   what the id is the SHA-256 of
                            manifest.sig    the signature, if it is signed
                            record.json     when it was published
                            withdrawn.json  why it was taken out of use, if it was
                            …               the files

A revision is written into a temporary folder, synced, and then renamed into place; a signature or a withdrawal that
comes later is one file, renamed into place too. So a reader sees the store before or after, whenever the process dies.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from paceline.trainer.durable import make_private_folder, replace_synced
from paceline.trainer.incoming import Incoming
from paceline.trainer.manifest import RECORD, WITHDRAWN, check_manifest, check_signature
from paceline.v1 import trainer_pb2
from paceline.wire.errors import PacelineError, Reason, out_of_range
from paceline.wire.revision import MANIFEST, manifest_json, parse_manifest, revision_id
from paceline.wire.revision_folder import SIGNATURE

log = structlog.get_logger()

CHUNK_BYTES = 256 * 1024
MAX_PAGE_BYTES = 1024 * 1024
MAX_TOKEN = 200
MAX_REASON = 1000
_INCOMING = ".incoming-"
_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """A published revision and where its files are. Its order among others is `published_unix_s`, no two the same."""

    revision: trainer_pb2.Revision
    folder: Path

    @property
    def revision_id(self) -> str:
        return self.revision.revision_id

    @property
    def drafter(self) -> str:
        return self.revision.manifest.drafter

    @property
    def published_unix_s(self) -> float:
        return self.revision.published_unix_s

    @property
    def in_use(self) -> bool:
        """It was not withdrawn."""
        return not self.revision.withdrawn


class RevisionStore:
    """Opens or makes the store in `folder`, which must be this process's alone. Methods may run in any thread.

    Raises OSError if the folder can't be used. A revision that can't be read is logged and left out.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._publishing = threading.Lock()
        self._revisions: dict[str, StoredRevision] = {}
        make_private_folder(folder)
        for path in sorted(folder.iterdir()):
            if path.name.startswith(_INCOMING):
                log.warning("removing an unfinished revision", folder=path.name)
                shutil.rmtree(path)
            elif _ID.fullmatch(path.name):
                self._load(path)

    def __len__(self) -> int:
        return len(self._revisions)

    def _load(self, folder: Path) -> None:
        try:
            content = (folder / MANIFEST).read_bytes()
            if hashlib.sha256(content).hexdigest() != folder.name:
                raise ValueError("its manifest is not what was published")
            manifest = parse_manifest(content)
            for file in manifest.files:
                if (folder / file.path).stat().st_size != file.size:
                    raise ValueError(f"{file.path} has another size than was published")
            revision = trainer_pb2.Revision(
                revision_id=folder.name,
                manifest=manifest,
                published_unix_s=float(json.loads((folder / RECORD).read_text())["published_unix_s"]),
                signature=_if_there(folder / SIGNATURE),
            )
            withdrawn = _if_there(folder / WITHDRAWN)
            if withdrawn:
                revision.withdrawn = json.loads(withdrawn)["reason"]
            check_signature(revision.signature)
        except (OSError, ValueError, TypeError, KeyError, PacelineError) as error:
            log.error("unreadable revision left out", revision=folder.name, why=str(error)[:200])
            return
        self._put(revision)

    def _put(self, revision: trainer_pb2.Revision) -> StoredRevision:
        stored = StoredRevision(revision, self._folder / revision.revision_id)
        # A new dictionary, so that readers in other threads never meet one that changes.
        self._revisions = {**self._revisions, revision.revision_id: stored}
        return stored

    def _changed(self, stored: StoredRevision, **fields: Any) -> StoredRevision:
        revision = trainer_pb2.Revision(**fields)
        revision.MergeFrom(stored.revision)
        return self._put(revision)

    def receive(self, manifest: trainer_pb2.RevisionManifest) -> Incoming:
        """Begins a revision. Raises OUT_OF_RANGE or MALFORMED for a bad manifest, UNKNOWN_REVISION for its parent."""
        check_manifest(manifest)
        if manifest.parent and manifest.parent not in self._revisions:
            raise PacelineError(
                Reason.UNKNOWN_REVISION,
                f"manifest.parent {manifest.parent[:80]!r} is not in this store; publish it first, or leave it empty",
                field="manifest.parent",
                value=manifest.parent,
            )
        return Incoming(manifest, self._folder / f"{_INCOMING}{secrets.token_hex(8)}")

    def publish(self, incoming: Incoming, now_unix_s: float, signature: bytes = b"") -> tuple[StoredRevision, bool]:
        """Makes a complete revision visible; tells whether it is new. The same content again gives what is there; if
        that wasn't signed it is from now on. A signature that is there stays: it is not for others to replace.

        Raises:
            PacelineError: MALFORMED if bytes are missing, or for what can't be a signature.
            OSError: nothing was published, except if only the last sync failed: then it may be there after a restart.
        """
        check_signature(signature)
        name = revision_id(incoming.manifest)
        with self._publishing:
            present = self._revisions.get(name)
            if present is not None:
                incoming.check_complete()
                if signature and not present.revision.signature:
                    replace_synced(present.folder / SIGNATURE, signature)
                    present = self._changed(present, signature=signature)
                return present, False
            # Later than all others even if the clock was set back: "newest" means published last.
            latest = max((item.published_unix_s for item in self._revisions.values()), default=-math.inf)
            published = max(now_unix_s, math.nextafter(latest, math.inf))
            target = self._folder / name
            if target.exists():  # unreadable when the store was opened, so nobody has it
                self._remove(target)
            beside = {
                MANIFEST: manifest_json(incoming.manifest).encode(),
                RECORD: json.dumps({"published_unix_s": published}).encode(),
                **({SIGNATURE: signature} if signature else {}),
            }
            incoming.place(target, beside)
            revision = trainer_pb2.Revision(
                revision_id=name, manifest=incoming.manifest, published_unix_s=published, signature=signature
            )
            return self._put(revision), True

    def withdraw(self, name: str, reason: str) -> tuple[StoredRevision, bool]:
        """Takes a revision out of use; on disk when this returns. Tells whether it was in use: again changes nothing.

        Raises UNKNOWN_REVISION, OUT_OF_RANGE for a reason that is none, or OSError.
        """
        if not 1 <= len(reason) <= MAX_REASON:
            raise out_of_range("reason", f"{len(reason)} characters long", f"1 to {MAX_REASON} characters long")
        with self._publishing:
            stored = self.get(name)
            if not stored.in_use:
                return stored, False
            replace_synced(stored.folder / WITHDRAWN, json.dumps({"reason": reason}).encode())
            return self._changed(stored, withdrawn=reason), True

    def _remove(self, folder: Path) -> None:
        """First out of sight in one rename, so that a crash leaves no half of it under its name."""
        away = self._folder / f"{_INCOMING}{secrets.token_hex(8)}"
        folder.rename(away)
        shutil.rmtree(away)

    def get(self, name: str) -> StoredRevision:
        """Raises UNKNOWN_REVISION."""
        stored = self._revisions.get(name)
        if stored is None:
            raise PacelineError(
                Reason.UNKNOWN_REVISION,
                f"revision_id {name[:80]!r} is not in this store; ListRevisions tells what is",
                field="revision_id",
                value=name,
            )
        return stored

    def newest_first(self, drafter: str = "") -> list[StoredRevision]:
        """Of one drafter line, or all."""
        chosen = (item for item in self._revisions.values() if drafter in ("", item.drafter))
        return sorted(chosen, key=_place)

    def newest_in_use(self, drafter: str = "") -> StoredRevision | None:
        """Of one drafter line, or all; None if there is none that has not been withdrawn."""
        return next((item for item in self.newest_first(drafter) if item.in_use), None)

    def page(self, drafter: str, size: int, token: str) -> tuple[list[StoredRevision], str]:
        """Up to `size` revisions after the one that `token` names, and the next token ("" at the end).

        Fewer if they would make too large a message. A token is a place in the order, so revisions published between
        pages neither repeat nor hide others.
        """
        listed = self.newest_first(drafter)
        if token:
            after = _parse_token(token)
            listed = [item for item in listed if _place(item) > after]
        page: list[StoredRevision] = []
        num_bytes = 0
        for item in listed[:size]:
            num_bytes += item.revision.ByteSize()
            if page and num_bytes > MAX_PAGE_BYTES:
                break
            page.append(item)
        return page, _token(page[-1]) if len(page) < len(listed) else ""

    def read(self, stored: StoredRevision) -> Iterator[bytes]:
        """The files' bytes in the manifest's order, hashed again while they are read.

        Raises:
            PacelineError: HASH_MISMATCH if a file on disk is no longer what was published.
        """
        for file in stored.revision.manifest.files:
            whole = hashlib.sha256()
            remaining = file.size
            try:
                with (stored.folder / file.path).open("rb") as source:
                    while chunk := source.read(min(CHUNK_BYTES, remaining)):
                        whole.update(chunk)
                        remaining -= len(chunk)
                        yield chunk
            except OSError as error:
                raise _damaged(stored, file.path) from error
            if whole.digest() != file.sha256:
                raise _damaged(stored, file.path)


def _if_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _damaged(stored: StoredRevision, path: str) -> PacelineError:
    log.error("a stored file is no longer what was published", revision=stored.revision_id, file=path)
    return PacelineError(
        Reason.HASH_MISMATCH,
        f"file {path!r} of this revision is damaged on the trainer's disk; restore it there, or use another revision",
        field=path,
    )


def _place(item: StoredRevision) -> tuple[float, str]:
    return -item.published_unix_s, item.revision_id


def _token(item: StoredRevision) -> str:
    return json.dumps(_place(item))


def _parse_token(token: str) -> tuple[float, str]:
    try:
        if len(token) > MAX_TOKEN:
            raise ValueError("too long")
        negated_unix_s, name = json.loads(token)
        return float(negated_unix_s), str(name)
    except (ValueError, TypeError, OverflowError) as error:
        raise PacelineError(
            Reason.MALFORMED,
            f"page_token is {token[:80]!r}; it must be a next_page_token of this trainer, or empty",
            field="page_token",
            value=token,
        ) from error
