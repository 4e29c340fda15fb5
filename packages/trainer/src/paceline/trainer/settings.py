"""Settings of paceline-trainer's commands."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from paceline.wire.settings import ClientSettings, ServiceSettings


class TrainerSettings(ServiceSettings):
    """Keeps lessons and revisions, and hands revisions out."""

    listen: str = "127.0.0.1:7720"
    """host:port to listen on; port 0 takes a free one."""
    data: Path = Path("~/.local/share/paceline/trainer")
    """Folder for lessons and revisions; one trainer at a time."""
    replay_max_mib: int = Field(default=1024, ge=8, le=1_048_576)
    """Most MiB of lessons on disk, and 1024 times as many lessons at most; the oldest leave first."""
    replay_ttl_h: float = Field(default=0.0, ge=0.0, le=87_600.0)
    """Hours after which a lesson has left; it stays for 15/16 of them at least. 0 keeps lessons."""
    trainer_id: str = Field(default="", max_length=200)
    """Unique id in the deployment; empty makes one."""


class RemoteSettings(ClientSettings):
    """A trainer to talk to."""

    trainer: str = "127.0.0.1:7720"
    """host:port of the trainer."""


class PublishSettings(RemoteSettings):
    """Publishes the files of a folder as a revision.

    A folder with a manifest.json is published as that says; then no setting may say otherwise. For others the settings
    say what they are.
    """

    folder: Path
    """Folder with the files."""
    drafter: str = ""
    """The line of revisions it belongs to, e.g. tiny_lm."""
    model: str = ""
    """The target it was made for."""
    tokenizer_hash: str = ""
    """The target's tokenizer."""
    format: str = ""
    """safetensors or onnx; empty: the manifest's, or safetensors."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """What was measured, e.g. --metrics acceptance=0.61; may be repeated."""
    parent: str = ""
    """revision_id that it was made from."""
    sign: Path | None = None
    """Private key that `keygen` wrote, to sign the revision with; a manifest.sig in the folder is sent without."""


class KeygenSettings(ClientSettings):
    """Makes a key to sign revisions with, and FILE.pub, which drafters check them by."""

    out: Path
    """File to make for the private key; it must not exist. It isn't encrypted: its owner alone can read it."""


class WithdrawSettings(RemoteSettings):
    """Takes a revision out of use; its files stay. Repeating it is harmless."""

    revision: str
    """revision_id to withdraw, or enough of its beginning."""
    reason: str = Field(min_length=1, max_length=1000)
    """Why, for people."""


class FetchSettings(RemoteSettings):
    """Fetches a revision into a folder, checking every byte."""

    revision: str
    """revision_id to fetch, or enough of its beginning."""
    out: Path
    """Folder to make; it must not exist."""


class RevisionsSettings(RemoteSettings):
    """Lists revisions, newest first."""

    drafter: str = ""
    """Only this line."""
    json_output: bool = Field(default=False, alias="json")
    """One JSON object a line."""
