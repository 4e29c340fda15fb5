"""Who is told what sessions do, so that sessions need not know who counts, times or traces them."""

from __future__ import annotations

from typing import Protocol

from paceline.drafter.opening import Opening


class SessionWatch(Protocol):
    """Is told of one session. Strategies are named by their place in Hello."""

    def drafting(self) -> None:
        """Strategies that need no model begin, one after the other."""
        ...

    def drafted(self, strategy: int, num_nodes: int, seconds: float | None = None) -> None:
        """A strategy made a tree. seconds: that it took; None: since `drafting`, or since the strategy before."""
        ...

    def sent(self, num_nodes: int) -> None:
        """What strategies made is to be sent, as one tree."""
        ...

    def committed(self, num_tokens: int) -> None:
        """The verifier committed tokens."""
        ...

    def ended(self) -> None:
        """It is closed, dropped, or its stream broke. Again is harmless."""
        ...


class Watch(Protocol):
    """Is told of all streams."""

    def stream(self, up: bool) -> None:
        """A stream to a verifier is up, or is no more."""
        ...

    def opened(self, opening: Opening) -> SessionWatch:
        """A session begins; `ended` is owed."""
        ...

    def noted(self, what: str) -> None:
        """Something that is counted happened; one of few words."""
        ...


class _Nobody:
    def drafting(self) -> None:
        pass

    def drafted(self, strategy: int, num_nodes: int, seconds: float | None = None) -> None:
        pass

    def sent(self, num_nodes: int) -> None:
        pass

    def committed(self, num_tokens: int) -> None:
        pass

    def ended(self) -> None:
        pass

    def stream(self, up: bool) -> None:
        pass

    def opened(self, opening: Opening) -> SessionWatch:
        return self

    def noted(self, what: str) -> None:
        pass


_NOBODY = _Nobody()
NOBODY: Watch = _NOBODY
NOT_WATCHED: SessionWatch = _NOBODY
