"""Runs one test file under pytest the way Bazel expects: arguments are the configuration and the file, in runfiles."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis
import pytest

NO_TESTS_COLLECTED = 5


class Shard:
    """Keeps every n-th test, if Bazel splits the file over several processes."""

    def __init__(self) -> None:
        self.total = int(os.environ.get("TEST_TOTAL_SHARDS", "1"))
        self.index = int(os.environ.get("TEST_SHARD_INDEX", "0"))
        status_file = os.environ.get("TEST_SHARD_STATUS_FILE")
        if status_file:
            Path(status_file).touch()

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = items[self.index :: self.total]


def main() -> int:
    config, test = (Path(os.environ["RUNFILES_DIR"]) / path for path in sys.argv[1:3])
    home = os.environ.get("TEST_TMPDIR", os.environ.get("HOME", "/tmp"))
    os.environ["HOME"] = home  # Bazel unsets it; nothing outside may be read or written
    os.environ["HF_HUB_OFFLINE"] = "1"
    hypothesis.settings.register_profile("bazel", derandomize=True, deadline=None, database=None)
    hypothesis.settings.load_profile("bazel")
    arguments = [str(test), f"--rootdir={config.parent}", "-c", str(config), "-rfE", "--import-mode=importlib"]
    if "XML_OUTPUT_FILE" in os.environ:
        arguments.append(f"--junitxml={os.environ['XML_OUTPUT_FILE']}")
    if "TEST_TMPDIR" in os.environ:
        arguments.append(f"--basetemp={os.environ['TEST_TMPDIR']}/pytest")  # Bazel cleans it, nobody cleans /tmp
    if "TESTBRIDGE_TEST_ONLY" in os.environ:
        arguments += ["-k", os.environ["TESTBRIDGE_TEST_ONLY"]]
    shard = Shard()
    code = int(pytest.main([*arguments, *sys.argv[3:]], plugins=[shard]))
    # A shard may have no test of a short file; a whole file without one is a mistake.
    return 0 if code == NO_TESTS_COLLECTED and shard.total > 1 else code


if __name__ == "__main__":
    sys.exit(main())
