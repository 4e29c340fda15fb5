"""Answers as people see them: text in the colours of who proposed it, and a line of figures."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from paceline.cli.colouring import TARGET, Colouring, Palette, shares
from paceline.cli.measure import Answer, Part

TARGETS_OWN = "the model itself"


class Stream:
    """Prints an answer as it comes; with a palette, in the colours of its sources.

    Args:
        console: where to.
        palette: colours, kept from answer to answer; None for none.
    """

    def __init__(self, console: Console, palette: Palette | None) -> None:
        self._console = console
        self._palette = palette
        self._colouring = Colouring()

    def show(self, part: Part) -> None:
        if self._palette is None or len(part.pieces) != len(part.ids):
            self._print(Text(part.text))
            return
        stretches = self._colouring.feed(part.pieces, part.sources, part.text)
        self._print(Text.assemble(*((text, self._palette.style(source)) for text, source in stretches)))

    def _print(self, text: Text) -> None:
        self._console.print(text, end="", soft_wrap=True)
        self._console.file.flush()


def legend(answer: Answer, palette: Palette) -> Text:
    """Who is which colour, and how many of the answer's tokens are theirs."""
    parts: list[tuple[str, str]] = []
    for source, count in shares(answer.sources).items():
        name = TARGETS_OWN if source == TARGET else source
        parts += [("■ ", palette.style(source) or "dim"), (f"{name} {count}   ", "dim")]
    return Text.assemble(*parts)


def figures(answer: Answer) -> Text:
    """What the answer came to, in a line."""
    told = [
        f"{len(answer.ids)} tokens",
        f"{answer.tokens_per_step:.2f} a step",
        f"{answer.tokens_per_second:.1f}/s",
    ]
    shown = ", ".join(told)
    credits = ", ".join(f"{name} {accepted}/{proposed}" for name, (proposed, accepted) in answer.drafters.items())
    return Text(f"{shown}{'; accepted of verified: ' + credits if credits else ''}", style="dim")
