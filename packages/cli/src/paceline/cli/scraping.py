"""What a member's metrics port shows: read within bounds, and the few figures that a table has room for."""

from __future__ import annotations

import asyncio
import urllib.error
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from paceline.cli.addresses import split_address

TIMEOUT_S = 3.0
MAX_BYTES = 8 * 1024 * 1024

Values = dict[str, float]  # by name; of several series with that name, the sum


@dataclass(frozen=True, slots=True)
class Scrape:
    """What a port showed; `trouble` says why it showed nothing."""

    address: str
    values: Values
    trouble: str = ""


async def scrape_all(addresses: Iterable[str]) -> list[Scrape]:
    """All at once: one that doesn't answer holds nobody up for longer than its timeout."""
    return list(await asyncio.gather(*(asyncio.to_thread(scrape, address) for address in addresses)))


def scrape(address: str) -> Scrape:
    """GET http://ADDRESS/metrics, or the URL that it is."""
    url = address if "://" in address else f"http://{address}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            content = response.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            return Scrape(address, {}, f"more than {MAX_BYTES} bytes")
        return Scrape(address, values_of(content.decode()))
    except urllib.error.HTTPError as error:
        return Scrape(address, {}, f"HTTP status {error.code}")
    except urllib.error.URLError as error:
        return Scrape(address, {}, str(getattr(error.reason, "strerror", None) or error.reason))
    except (OSError, ValueError) as error:  # cut off, or no metrics
        return Scrape(address, {}, " ".join(str(error).split())[:200] or type(error).__name__)


def check_addresses(addresses: Iterable[str]) -> None:
    """Raises ValueError for one that is neither host:port nor a URL of HTTP."""
    for address in addresses:
        if not address.startswith(("http://", "https://")):
            if "://" in address:
                raise ValueError(f"{address!r} is not host:port, nor http:// or https://")
            split_address(address)


def values_of(text: str) -> Values:
    """Samples by name, labels summed up. Raises ValueError: it is not Prometheus's text."""
    values: Values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if "le" not in sample.labels:  # buckets are cumulative: their sum means nothing
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
    return values


def mean_between(name: str, before: Values, after: Values) -> float | None:
    """Of a histogram or summary: the mean of what was observed between two looks; None if nothing was."""
    count = after.get(f"{name}_count", 0.0) - before.get(f"{name}_count", 0.0)
    total = after.get(f"{name}_sum", 0.0) - before.get(f"{name}_sum", 0.0)
    return total / count if count > 0.0 else None
