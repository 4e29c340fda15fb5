"""Mixes of drafters, as one writes them on a command line.

    suffix; recycling; suffix + recycling; suffix & recycling; small = suffix & causal_lm(model=DIR, tree=opt_tree)

`;` stands between mixes, `&` between the processes of one mix, `+` between the strategies that one process merges. In
brackets are further options of `paceline-drafter serve`, without their dashes: `key=value`, or `own` and `no-ahead` for
those that are on or off. A value may be quoted, so that it can hold any of these signs. A mix is called what is written
before its `=`, or else as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAX_TEXT = 10_000
MAX_MIXES = 64
MAX_PROCESSES = 16  # of one mix
MAX_NAME = 60

# What the tool itself sets, so that it can find the processes again.
RESERVED = (
    *("name", "drafter-id", "verifiers", "router", "listen", "advertise", "ready-file", "config"),
    *("strategy", "strategies"),
)

_WORD = re.compile(r"[a-z][a-z0-9_]{0,59}")
_OPTION = re.compile(r"[a-z][a-z0-9_-]{0,59}")
_PROCESS = re.compile(r"(?P<strategies>[^(]*)(?:\((?P<options>.*)\))?", re.DOTALL)
_TITLE = re.compile(r"\s*(?P<title>[^=(&+'\"]*)=(?P<rest>.*)", re.DOTALL)


class MixError(Exception):
    """A mix can't be understood; the message says which part, and what would be right."""


@dataclass(frozen=True, slots=True)
class DrafterProcess:
    """One process. `options` are pairs of a flag's name and its value, None for a flag that has none."""

    name: str
    strategies: tuple[str, ...]
    options: tuple[tuple[str, str | None], ...] = ()

    @property
    def arguments(self) -> list[str]:
        """For `paceline-drafter serve`."""
        flags = [f"--{key}" if value is None else f"--{key}={value}" for key, value in self.options]
        return ["--name", self.name, "--strategies", ",".join(self.strategies), *flags]


@dataclass(frozen=True, slots=True)
class Mix:
    """Drafters that work together. Their names differ."""

    name: str
    drafters: tuple[DrafterProcess, ...]


def parse_mixes(texts: Sequence[str]) -> list[Mix]:
    """The mixes of several texts, in their order.

    Raises:
        MixError: a text is not as the head of this file says, or two mixes have one name.
    """
    if sum(map(len, texts)) > MAX_TEXT:
        raise MixError(f"is {sum(map(len, texts))} characters long; {MAX_TEXT} are the limit")
    mixes = [_mix(part) for text in texts for part in _split(text, ";") if part.strip()]
    if not 0 < len(mixes) <= MAX_MIXES:
        raise MixError(f"names {len(mixes)} mixes; it must be 1 to {MAX_MIXES}, such as 'suffix; suffix + recycling'")
    names = [mix.name for mix in mixes]
    for name in names:
        if names.count(name) > 1:
            raise MixError(f"has two mixes {name!r}; call one of them something else: 'name = {name}'")
    return mixes


def _mix(text: str) -> Mix:
    title, rest = "", text
    if titled := _TITLE.fullmatch(text):
        title, rest = titled["title"].strip(), titled["rest"]
        if not 0 < len(title) <= MAX_NAME or not title.isprintable():
            raise MixError(f"{text.strip()!r}: the name before '=' must be 1 to {MAX_NAME} characters long")
    parts = _split(rest, "&")
    if len(parts) > MAX_PROCESSES:
        raise MixError(f"{text.strip()[:MAX_NAME]!r} has {len(parts)} processes; {MAX_PROCESSES} are the limit")
    drafters: list[DrafterProcess] = []
    for part in parts:
        drafters.append(_process(part, [drafter.name for drafter in drafters]))
    return Mix(title or " ".join(rest.split())[:MAX_NAME], tuple(drafters))


def _process(text: str, taken: Sequence[str]) -> DrafterProcess:
    found = _PROCESS.fullmatch(text.strip())
    if found is None:
        raise MixError(f"{text.strip()!r}: nothing may follow the ')' but '&' or ';'")
    strategies = tuple(part.strip() for part in found["strategies"].split("+"))
    for strategy in strategies:
        if not _WORD.fullmatch(strategy):
            raise MixError(
                f"{text.strip()!r}: {strategy!r} is no strategy's name; a process is written 'suffix', "
                "'suffix + recycling' or 'causal_lm(model=DIR)'"
            )
    if len(set(strategies)) < len(strategies):
        raise MixError(f"{text.strip()!r} names a strategy twice; once is enough")
    options = [_option(part) for part in _split(found["options"] or "", ",") if part.strip()]
    keys = [key for key, _value in options]
    if len(set(keys)) < len(keys):
        raise MixError(f"{text.strip()!r} gives an option twice")
    return DrafterProcess(_free_name("+".join(strategies)[:MAX_NAME], taken), strategies, tuple(options))


def _option(text: str) -> tuple[str, str | None]:
    key, equals, value = text.partition("=")
    key, value = key.strip(), value.strip()
    if not _OPTION.fullmatch(key):
        raise MixError(f"option {text.strip()!r} must be written 'key=value', or 'key' if it is on or off")
    key = key.replace("_", "-")
    if key in RESERVED:
        raise MixError(f"option {key!r} can't be given here: the tool sets it")
    if not equals:
        return key, None
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    if not value or not value.isprintable():
        raise MixError(f"option {key!r} has no value, or one that can't be printed; write '{key}=value'")
    return key, value


def _free_name(name: str, taken: Sequence[str]) -> str:
    candidates = (name if number == 1 else f"{name}-{number}" for number in range(1, len(taken) + 2))
    return next(candidate for candidate in candidates if candidate not in taken)


def _split(text: str, separator: str) -> list[str]:
    """At the separators that are outside of brackets and quotes."""
    parts = [""]
    for sign, bare in _signs(text):
        if bare and sign == separator:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _signs(text: str) -> Iterator[tuple[str, bool]]:
    """Each character, and whether it stands outside of brackets and quotes."""
    quote = ""
    depth = 0
    for sign in text:
        yield sign, not quote and depth == 0
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "()":
            depth += 1 if sign == "(" else -1
            if not 0 <= depth <= 1:
                raise MixError(f"{text.strip()!r}: brackets must come in pairs, and not within one another")
    if quote or depth:
        raise MixError(f"{text.strip()!r}: {'a quote' if quote else 'a bracket'} is opened and not closed")
