"""Whether a page is well-formed, harmless and self-contained, as tests ask it."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})
LOADING = frozenset({"src", "srcset", "data", "action", "formaction", "poster", "background"})


class Checked(HTMLParser):
    """Parses a page and notes what is wrong with it.

    Attributes:
        faults: tags that don't match, scripts, and whatever would be fetched or run.
        words: all text that is shown.
        ids: of all elements.
    """

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.words = ""
        self.ids: list[str] = []
        self.links: list[str] = []
        self.counts: dict[str, int] = {}
        self._open: list[str] = []
        self.feed(page)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._open]
        self.faults += [f"id {name} comes twice" for name in set(self.ids) if self.ids.count(name) > 1]
        self.faults += [f"#{name} leads nowhere" for name in self.links if name not in self.ids]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if not {"style", "title"} & set(self._open):
            self.words += f" {data}"
        if "style" in self._open and any(sign in data for sign in ("@import", "url(h", "url(/", "<")):
            self.faults.append("a style that loads something")

    def _seen(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag in ("script", "iframe", "object", "embed", "link", "base", "form", "foreignobject", "image"):
            self.faults.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on"):
                self.faults.append(f"{tag} {name}")
            if name in LOADING and not (value or "").startswith("data:"):
                self.faults.append(f"{tag} {name}={value}")
            if name in ("href", "xlink:href"):
                (self.links if (value or "").startswith("#") else self.faults).append((value or "")[1:])
            if name == "id":
                self.ids.append(value or "")


def shown(page: str) -> str:
    """The text of a page that has no faults, on one line."""
    checked = Checked(page)
    assert not checked.faults, checked.faults[:10]
    assert "http:" not in page
    assert "https:" not in page
    return " ".join(checked.words.split())
