"""All connected drafters, and which of them serve which session."""

from __future__ import annotations

from paceline.verifier.link import DrafterLink
from paceline.verifier.quarantine import Standings
from paceline.verifier.request import Speculation
from paceline.verifier.session import Session
from paceline.wire.errors import PacelineError, Reason

MAX_ANNOUNCED = 1024


class DrafterHub:
    """All connected drafters, and which of them serve which session."""

    def __init__(self) -> None:
        self.links: dict[str, DrafterLink] = {}
        self.standings = Standings()
        self.feature_layers: tuple[int, ...] = ()  # that any of them wants, ascending
        self._held = False

    def hold(self, held: bool) -> None:
        """Whether the drafters' links hold commits back."""
        if held != self._held:
            self._held = held
            for link in self.links.values():
                link.hold(held)

    def connect(self, link: DrafterLink) -> None:
        """Adds a drafter; one with the same id that was there (a connection that died unnoticed) is shut."""
        old = self.links.pop(link.info.drafter_id, None)
        if old is not None:
            old.shut()
        self.links[link.info.drafter_id] = link
        self._gather_layers()
        link.hold(self._held)

    def disconnect(self, link: DrafterLink) -> None:
        if self.links.get(link.info.drafter_id) is link:
            del self.links[link.info.drafter_id]
            self._gather_layers()
        link.shut()

    def _gather_layers(self) -> None:
        """Of all that are connected, whatever they serve: what a step captures shall seldom change."""
        layers = {layer for link in self.links.values() for layer in link.info.features.layers}
        self.feature_layers = tuple(sorted(layers))

    def distrusted(self, drafter_id: str) -> bool:
        """Whether a drafter is in quarantine now, so that nothing should be learned from what it does."""
        link = self.links.get(drafter_id)
        return link is not None and link.quarantined

    def announced(self) -> list[str]:
        """Ids of those connected, as many as an announcement may name: first those that anybody may use, since routers
        choose among these."""
        infos = sorted((link.info for link in self.links.values()), key=lambda info: info.own)
        return [info.drafter_id for info in infos[:MAX_ANNOUNCED]]

    def wanted(self, link: DrafterLink, speculation: Speculation) -> bool:
        """Whether a request with this choice wants this drafter; somebody's own must be named by its id."""
        chosen = speculation.drafters
        if link.info.own:
            return chosen is not None and link.info.drafter_id in chosen
        return chosen is None or link.info.drafter_id in chosen or link.info.name in chosen

    def check(self, speculation: Speculation) -> None:
        """Raises UNKNOWN_DRAFTER if a drafter is named that isn't connected. It doesn't tell of those that are
        somebody's own: they are nobody else's business."""
        infos = [link.info for link in self.links.values()]
        known = {name for info in infos if not info.own for name in (info.drafter_id, info.name)}
        own = {info.drafter_id for info in infos if info.own}
        for name in speculation.drafters or ():
            if name not in known | own:
                raise PacelineError(
                    Reason.UNKNOWN_DRAFTER,
                    f"speculation.drafters names {name!r}; connected are: {', '.join(sorted(known)) or 'none'}",
                    field="speculation.drafters",
                    value=name,
                    limit=", ".join(sorted(known)) or "none connected",
                )

    def may_shadow(self, link: DrafterLink, session: Session) -> bool:
        """Whether a drafter may be scored on a session's text: nobody's own is, nor one that would have to see the
        target's hidden states."""
        return not (link.info.own or link.info.features.layers or self.wanted(link, session.speculation))

    def shadow_top_k(self, session: Session) -> int:
        """How many of the target's best tokens those would ask for."""
        asked = (link.info.commit_top_k for link in self.links.values() if self.may_shadow(link, session))
        return max(asked, default=0)

    def serving(self, session: Session) -> list[DrafterLink]:
        return [link for link in self.links.values() if link.serves(session.session_id)]

    def engage(self, session: Session) -> None:
        """Brings the set of drafters that serve a session in line with its speculation."""
        for link in self.links.values():
            wanted = self.wanted(link, session.speculation)
            if wanted and not link.serves(session.session_id):
                link.open(session)
            elif not wanted and link.serves(session.session_id):
                link.close(session.session_id)
                session.trie.forget(link.info.drafter_id)

    def close(self, session: Session) -> None:
        for link in self.links.values():
            link.close(session.session_id)
