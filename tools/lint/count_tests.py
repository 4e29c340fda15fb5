"""Counts the tests of one `bazel test` and says so in one line.

    python3 tools/lint/count_tests.py EVENTS

EVENTS is what that run wrote with --build_event_json_file: it names the reports of just this run, cached ones too.
The folder bazel-testlogs keeps those of targets that are gone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree


def reports(events: Path) -> Iterator[Path]:
    """test.xml of each target and shard; the last one counts where a test was tried again."""
    found: dict[tuple[str, int], Path] = {}
    for line in events.read_text().splitlines():
        event = json.loads(line)
        if "testResult" not in event:
            continue
        test = event["id"]["testResult"]
        for output in event["testResult"].get("testActionOutput", []):
            if output["name"] == "test.xml":
                found[test["label"], test.get("shard", 1)] = Path(unquote(urlsplit(output["uri"]).path))
    yield from found.values()


def main() -> None:
    total = failed = skipped = 0
    for report in reports(Path(sys.argv[1])):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            total += int(suite.get("tests", 0))
            failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
    print(f"{total - failed - skipped} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    if total == 0:
        sys.exit("no test ran")


if __name__ == "__main__":
    main()
