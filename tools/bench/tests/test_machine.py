"""What is said of the machine."""

from __future__ import annotations

from machine import describe_machine, versions

CPUINFO = """processor\t: 0
model name\t: Some Processor 9000
flags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16 amx_tile

processor\t: 1
model name\t: Some Processor 9000
"""


def test_the_processor_its_memory_and_the_flags_that_matter() -> None:
    machine = describe_machine(CPUINFO, "MemTotal:       25165824 kB\nMemFree: 1 kB\n")
    assert machine["processor"] == "Some Processor 9000"
    assert machine["memory_gib"] == 24.0
    assert machine["flags"] == ["avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"]
    assert machine["cores"] >= 1


def test_a_machine_that_says_nothing_of_itself_is_no_error() -> None:
    machine = describe_machine("", "")
    assert machine["flags"] == []
    assert machine["memory_gib"] is None
    assert machine["processor"]


def test_versions_name_the_services_too() -> None:
    found = versions({"paceline-router": "1.2.3"})
    assert found["paceline-router"] == "1.2.3"
    assert {"python", "torch", "transformers", "grpcio"} <= set(found)
