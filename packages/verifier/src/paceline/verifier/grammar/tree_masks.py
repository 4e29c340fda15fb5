"""The masks of one step's tree of candidates."""

from __future__ import annotations

from collections.abc import Sequence

from paceline.verifier.grammar.guide import Guide
from paceline.verifier.grammar.mask import Mask
from paceline.wire.errors import PacelineError

ROOT = -1


class TreeMasks:
    """Which tokens may follow the end of a session's text, and each node of its tree.

    Made on the event loop, which does nothing more with it; the guide moves in the model's thread. A mask takes some
    tens of microseconds and is found when it is asked for. Who walks the tree on the host asks for those on the
    accepted path only, three or four of thirty, which costs less than keeping a core from the model to find all of
    them meanwhile. Who picks on a device asks for all, while the device computes (`known`).

    Args:
        guide: at the end of the text; the model's thread has it to itself.
        tokens, parents: as in `SessionPlan`. All paths may follow the text.
    """

    def __init__(self, guide: Guide, tokens: Sequence[int], parents: Sequence[int]) -> None:
        self._guide = guide
        self._tokens = tokens
        self._parents = parents
        self._found: dict[int, Mask | PacelineError] = {}

    def after(self, node: int) -> Mask:
        """The mask after a node, `ROOT` for the end of the text. Raises PacelineError: see `Guide.mask`."""
        found = self._found.get(node)
        if found is None:
            try:
                found = self._guide.mask(self._path(node))
            except PacelineError as error:
                found = error
            self._found[node] = found
        if isinstance(found, PacelineError):
            raise found
        return found

    def known(self) -> dict[int, Mask]:
        """All masks by node. Where there is none, `after` says why to who gets there."""
        children: dict[int, list[int]] = {}
        for node, parent in enumerate(self._parents):
            children.setdefault(parent, []).append(node)
        masks: dict[int, Mask] = {}
        pending = [ROOT]
        while pending:  # depth first, so that the guide goes few steps
            node = pending.pop()
            pending += children.get(node, ())
            try:
                masks[node] = self.after(node)
            except PacelineError:
                continue
        return masks

    def take(self, tokens: Sequence[int]) -> None:
        """The step's tokens are committed. Raises PacelineError: see `Guide.take`."""
        self._guide.take(tokens)

    def _path(self, node: int) -> list[int]:
        path: list[int] = []
        while node != ROOT:
            path.append(self._tokens[node])
            node = self._parents[node]
        return path[::-1]
