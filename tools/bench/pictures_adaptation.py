"""A picture of traffic that shifts: tokens per step of a drafter that is refitted and of one that isn't."""

from __future__ import annotations

from typing import Any

from adaptation_figures import FROZEN, ONLINE, curve
from matplotlib import rc_context
from pictures import ACCENT, CARD, INK, SOFT, STYLE, canvas, colour_of, short, svg_of
from result_adaptation import Adaptation

COLOURS = {ONLINE: ACCENT, FROZEN: SOFT}
LABELS = {ONLINE: "refitted", FROZEN: "left alone"}


def traffic(found: Adaptation) -> str:
    """Lines: traffic, as far as there is enough of it for a moving mean; dots: held-out prompts."""
    requests = [request.model_dump() for request in found.requests]
    with rc_context(STYLE):
        figure, (axes,) = canvas(9.6, 3.4)
        for drafter in (FROZEN, ONLINE):
            at, values = curve(requests, drafter)
            axes.plot(at, values, color=COLOURS[drafter], linewidth=1.6, label=LABELS[drafter])
            probes = [(p.tokens, (p.online if drafter == ONLINE else p.frozen).tokens_per_step) for p in found.probes]
            style: dict[str, Any] = {"color": COLOURS[drafter], "markersize": 7, "markeredgecolor": CARD}
            axes.plot(
                [x for x, _y in probes], [y for _x, y in probes], "o", label=f"{LABELS[drafter]}, held out", **style
            )
        axes.margins(y=0.12)
        low, high = axes.get_ylim()
        for domain in found.domains:
            start = next((p.tokens for p in found.probes if p.domain == domain and p.when == "start"), None)
            if start is not None:
                axes.axvline(start, color=INK, linewidth=0.8)
                axes.text(start, high, f" {short(domain)}", va="top")
        swaps = [event.tokens for event in found.events if event.what == "published" and event.tokens is not None]
        axes.plot(swaps, [low] * len(swaps), "^", color=ACCENT, markersize=7, label="new revision", clip_on=False)
        refits = [_tokens_at(found, event.at_s) for event in found.events if event.what == "refit"]
        axes.plot(
            refits, [low] * len(refits), "|", color=colour_of(1), markersize=13, label="refit begins", clip_on=False
        )
        axes.set_ylim(low, high)
        axes.set_xlabel("tokens of traffic")
        axes.set_ylabel("tokens per step")
        axes.legend(loc="lower left", ncols=6, bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2, handlelength=1.2)
        return svg_of(figure, "traffic")


def _tokens_at(found: Adaptation, at_s: float) -> int:
    return max((request.lessons for request in found.requests if request.at_s <= at_s), default=0)
