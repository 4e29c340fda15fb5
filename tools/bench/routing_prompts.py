"""Made-up prompts: nonsense that has the shape of code, articles, questions, sums and other scripts."""

from __future__ import annotations

import numpy as np

from paceline.router.context import MAX_HEAD, Prompt, prompt_of

KINDS = ("code", "summary", "chat", "maths", "translation")
_SYLLABLES = "ba ce di fo gu ha ki lo mu ne pa ra sa te vi wo ya zu ing er ed ly th st"
SYLLABLES = _SYLLABLES.split()
FOREIGN = "äöüßéèñçабвгдежзийклмнопрстуфхцчшщыэюяあいうえおかきくけこさしすせそ漢字日本語"
POOL = 30  # prompts of a kind


class Writer:
    """Writes prompts.

    Args:
        random: the same draws write the same prompts.
    """

    def __init__(self, random: np.random.Generator) -> None:
        self._random = random
        self._vocabulary = ["".join(self._some(SYLLABLES, 1, 4)) for _ in range(400)]

    def prompt(self, kind: str) -> Prompt:
        text = getattr(self, f"_{kind}")()
        return prompt_of(text[:MAX_HEAD], len(text))

    def _code(self) -> str:
        names = self._some(self._vocabulary, 6, 10)

        def name() -> str:
            return str(self._random.choice(names))

        lines = [
            f"def {name()}({name()}, {name()}={self._random.integers(10)}):",
            *(f"    {name()}.{name()}[{name()}] = {name()}({name()}) + {name()}" for _ in range(self._count(4, 40))),
            f"    return {{{name()}: {name()} for {name()} in {name()}}}",
        ]
        return "Complete this:\n" + "\n".join(lines)

    def _summary(self) -> str:
        return "Summarise this article. " + self._sentences(25, 70)

    def _chat(self) -> str:
        return self._sentences(1, 4).rstrip(".") + "?"

    def _maths(self) -> str:
        signs = self._some("+-*/", 2, 7)
        sums = (f"{self._random.integers(2, 900)} {sign}" for sign in signs)
        return f"{self._sentences(1, 2)} How much is {' '.join(sums)} {self._random.integers(2, 900)}?"

    def _translation(self) -> str:
        words = ("".join(self._some(FOREIGN, 2, 9)) for _ in range(self._count(10, 80)))
        return "Translate into English: " + " ".join(words)

    def _sentences(self, least: int, most: int) -> str:
        return " ".join(
            " ".join(self._some(self._vocabulary, 6, 16)).capitalize() + "." for _ in range(self._count(least, most))
        )

    def _some(self, of: list[str] | str, least: int, most: int) -> list[str]:
        return [of[index] for index in self._random.integers(len(of), size=self._count(least, most))]

    def _count(self, least: int, most: int) -> int:
        return int(self._random.integers(least, most + 1))


def pool(random: np.random.Generator) -> dict[str, list[Prompt]]:
    """Some prompts of each kind."""
    writer = Writer(random)
    return {kind: [writer.prompt(kind) for _ in range(POOL)] for kind in KINDS}
