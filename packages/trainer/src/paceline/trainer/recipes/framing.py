"""What `frame` does: a file of prompts, whole or not at all."""

from __future__ import annotations

import itertools
from pathlib import Path

from paceline.trainer.data.framing import PLACE, Framing, framed
from paceline.trainer.data.prompts import prompt_line, read_prompts
from paceline.trainer.durable import replace_synced
from paceline.trainer.recipes.settings import FrameSettings, sources_of
from paceline.wire.settings import StartupError

MAX_FRAMES = 10_000


def run(settings: FrameSettings) -> None:
    """Makes the file. Raises StartupError, PacelineError for a malformed line of --texts, OSError."""
    framing = Framing(
        frames=read_frames(settings.frames),
        min_characters=settings.min_characters,
        max_characters=settings.max_characters,
        seed=settings.seed,
    )
    found = read_prompts(settings.texts, sources_of(settings), option="--texts")
    texts = [prompt.messages[0].content for prompt in found]
    try:
        prompts = list(itertools.islice(framed(texts, framing), settings.count))
    except ValueError as error:
        raise StartupError(f"--texts {settings.texts}: {error}; lower --min-characters") from error
    replace_synced(settings.out, b"".join(map(prompt_line, prompts)))


def read_frames(path: Path) -> tuple[str, ...]:
    """Raises StartupError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StartupError(f"--frames {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from error
    found = tuple(line.replace("\\n", "\n") for line in lines if line.strip())
    if not 1 <= len(found) <= MAX_FRAMES:
        raise StartupError(f"--frames {path}: has {len(found)} lines; it must have 1 to {MAX_FRAMES}")
    for number, frame in enumerate(found, 1):
        if PLACE not in frame:
            raise StartupError(f"--frames {path}: its request {number} has no {PLACE}, where a text would go")
    return found
