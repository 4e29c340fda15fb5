"""Reading a datastore: checked once when opened, then memory-mapped and looked up in microseconds.

    manifest.json   what it was made for, and the other files' sizes and SHA-256
    tokens.bin      [num_tokens + SORTED_DEPTH] int32: token ids, -1 after each text and at the end
    suffixes.bin    [num_tokens] int32: positions in the order of what follows them (`suffix_array`)

REST (He et al. 2023) looks continuations up so. Whoever made the folder isn't trusted: what it says can make drafts
bad, and nothing else.
"""

from __future__ import annotations

import hashlib
import mmap
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paceline.drafter.datastore.suffix_array import SORTED_DEPTH
from paceline.wire.errors import PacelineError, Reason

log = structlog.get_logger(__name__)

MANIFEST = "manifest.json"
TOKENS: Literal["tokens.bin"] = "tokens.bin"
SUFFIXES: Literal["suffixes.bin"] = "suffixes.bin"
MAX_TOKENS = 1 << 28
MAX_MANIFEST_BYTES = 64 * 1024
MAX_MATCH = 16  # tokens of the context that are looked up
_ID_BYTES = 4
_CHECKED_AT_ONCE = 1 << 22  # ids

Range = tuple[int, int, int]  # places in the suffix array, from and to, and the length of what they have in common
FileName = Literal["tokens.bin", "suffixes.bin"]
_NOWHERE: tuple[Range, int] = ((0, 0, 0), 0)


class File(BaseModel):
    """What a file of a datastore must be."""

    model_config = ConfigDict(extra="forbid", strict=True)

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What a datastore says of itself. Token ids are below vocab_size."""

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal["paceline-datastore-1"] = "paceline-datastore-1"
    tokenizer_hash: str = Field(min_length=1, max_length=200)
    num_tokens: int = Field(ge=1, le=MAX_TOKENS)
    vocab_size: int = Field(ge=1, le=1 << 31)
    sorted_depth: Literal[32] = SORTED_DEPTH
    files: dict[FileName, File] = Field(min_length=2)


class Datastore:
    """A text to look continuations up in: a `strategies.matching.Text`. Read-only, shared by all sessions.

    A match is a range of places in the suffix array; one more token narrows it by two binary searches. It never gets
    longer than SORTED_DEPTH, and a continuation that it doesn't have ends it.

    Raises:
        PacelineError: UNUSABLE_REVISION or HASH_MISMATCH if it isn't a whole and undamaged datastore.
    """

    def __init__(self, folder: Path) -> None:
        self.manifest = _read_manifest(folder)
        num_tokens, vocab_size = self.manifest.num_tokens, self.manifest.vocab_size
        # SORTED_DEPTH more tokens than places: wherever a place is, what a match looks at is inside.
        self._places, self._place_at = _mapped(folder, SUFFIXES, self.manifest, num_tokens, range(num_tokens))
        self._tokens, self._token_at = _mapped(
            folder, TOKENS, self.manifest, num_tokens + SORTED_DEPTH, range(-1, vocab_size)
        )
        self._refused: set[tuple[str, int]] = set()

    def serves(self, tokenizer_hash: str, vocab_size: int) -> bool:
        """Whether its ids mean the same to a target; if not, the log says so once."""
        manifest = self.manifest
        if manifest.tokenizer_hash == tokenizer_hash and manifest.vocab_size <= vocab_size:
            return True
        if (tokenizer_hash, vocab_size) not in self._refused:
            self._refused.add((tokenizer_hash, vocab_size))
            log.warning(
                "the datastore was made for another tokenizer, so nothing is drafted from it for this target; "
                "make one with 'paceline-drafter index --verifier'",
                datastore_tokenizer=manifest.tokenizer_hash,
                target_tokenizer=tokenizer_hash,
            )
        return False

    def matches(self, recent: Sequence[int], max_matches: int) -> list[tuple[Range, int]]:
        """The longest suffix of `recent` that occurs, up to MAX_MATCH tokens, and some shorter ones; longest first.

        Whatever occurs, its suffixes do: so the greatest length is found by doubling and then by bisection, which
        come by the others. Of those with the same places only the longest is given.
        """
        low, high = 0, min(len(recent), MAX_MATCH)
        found: list[tuple[Range, int]] = []
        doubling = True
        while low < high:
            length = min(max(2 * low, 1), high) if doubling else (low + high + 1) // 2
            match = self._find(recent[len(recent) - length :])
            if match[1]:
                low = length
                if found and _num_places(found[-1]) == _num_places(match):
                    found.pop()
                found.append(match)
            else:
                high = length - 1
                doubling = False
        return found[: -max_matches - 1 : -1]

    def advance(self, state: Range, length: int, token: int) -> tuple[Range, int]:
        low, high, depth = state
        if low == high or depth == SORTED_DEPTH:
            return _NOWHERE
        tokens, places = self._token_at, self._place_at
        low = bisect_left(places, token, low, high, key=lambda place: tokens[place + depth])
        high = bisect_right(places, token, low, high, key=lambda place: tokens[place + depth])
        return ((low, high, depth + 1), length + 1) if low < high else _NOWHERE

    def followers(self, state: Range, max_followers: int) -> tuple[list[tuple[int, int]], int]:
        """Counted at up to max_followers places, evenly spread; the most frequent first."""
        low, high, depth = state
        if depth == SORTED_DEPTH:
            return [], 0
        places = self._places[low : high : -(-(high - low) // max_followers)]
        tokens = self._tokens[places + depth].tolist()
        return [(times, token) for token, times in Counter(tokens).most_common()], len(places)

    def shorter(self, state: Range) -> tuple[Range, int]:
        """Nothing: `matches` gives the shorter ones to begin with."""
        return _NOWHERE

    def _find(self, tokens: Sequence[int]) -> tuple[Range, int]:
        match: tuple[Range, int] = ((0, self.manifest.num_tokens, 0), 0)
        for token in tokens:
            match = self.advance(*match, token)
        return match


def _mapped(
    folder: Path, name: FileName, manifest: Manifest, num_ids: int, valid: range
) -> tuple[npt.NDArray[np.int32], memoryview]:
    """A file's ids, checked: as an array to read many of, and as a view that reads one fast."""
    expected = manifest.files[name]
    if expected.size != num_ids * _ID_BYTES:
        raise _unusable(f"files.{name}.size", expected.size, f"{num_ids * _ID_BYTES}")
    try:
        with (folder / name).open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise _unusable(name, f"unreadable ({error})", "a file of the datastore") from error
    if len(mapped) != expected.size or hashlib.sha256(mapped).hexdigest() != expected.sha256:
        message = f"datastore: {name} is not the file that {MANIFEST} names; make the datastore anew"
        raise PacelineError(Reason.HASH_MISMATCH, message, field=name)
    ids = np.frombuffer(mapped, dtype=np.int32)
    for start in range(0, num_ids, _CHECKED_AT_ONCE):
        part = ids[start : start + _CHECKED_AT_ONCE]
        if part.min() < valid.start or part.max() >= valid.stop:
            raise _unusable(name, "not what it should hold", f"numbers from {valid.start} to {valid.stop - 1}")
    return ids, memoryview(mapped).cast("i")


def _num_places(match: tuple[Range, int]) -> int:
    (low, high, _), _ = match
    return high - low


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        size = path.stat().st_size
        if size > MAX_MANIFEST_BYTES:
            raise _unusable(MANIFEST, f"{size} bytes", f"at most {MAX_MANIFEST_BYTES} bytes")
        return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise _unusable(str(path), f"unreadable ({error.strerror})", "the manifest of a datastore") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or MANIFEST
        raise _unusable(where, repr(problem["input"])[:80], f"valid: {problem['msg']}") from error


def _unusable(field: str, value: object, limit: str) -> PacelineError:
    message = f"datastore: {field} is {value}; it must be {limit}. Make it with 'paceline-drafter index'"
    return PacelineError(Reason.UNUSABLE_REVISION, message, field=field, value=value, limit=limit)
