"""Reading a service's metrics."""

from __future__ import annotations

import re
import urllib.request

from paceline.cli.stack import Service


def metrics_of(service: Service) -> dict[str, float]:
    """By name, with labels as they are printed. The service must have been started with --metrics-listen."""
    found = re.search(r"metrics\W.*?(\d+\.\d+\.\d+\.\d+:\d+)", service.log.read_text(errors="replace"))
    assert found, f"{service.name} names no address of metrics"
    with urllib.request.urlopen(f"http://{found.group(1)}/metrics", timeout=10.0) as response:
        lines = response.read().decode().splitlines()
    values = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in values}
