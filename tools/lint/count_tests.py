"""Counts the tests of the last `bazel test` from its reports, and says so in one line."""

from __future__ import annotations

import sys
from pathlib import Path
from xml.etree import ElementTree

REPORTS = Path(__file__).resolve().parents[2] / "bazel-testlogs"


def main() -> None:
    total = failed = skipped = 0
    for report in REPORTS.rglob("test.xml"):
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            total += int(suite.get("tests", 0))
            failed += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
            skipped += int(suite.get("skipped", 0))
    print(f"{total - failed - skipped} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    if total == 0:
        sys.exit("no test ran")


if __name__ == "__main__":
    main()
