"""status, drafters, top, revisions: what a router and a trainer tell, for people and for programs."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from fake_deployment import FakeRouter, FakeTrainer, a_status, member, serving, work
from running import lines, run

from paceline.v1 import router_pb2, trainer_pb2

WIDE = {"COLUMNS": "250"}


def told(*arguments: str, **fields: Any) -> Any:
    done = run(*arguments, "--json", **fields)
    assert done.exit_code == 0, done.output
    (line,) = lines(done.stdout)
    return json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_status_tells_members_and_arms() -> None:
    router = FakeRouter([a_status(work(1.0, 100, running=2, queued=1))])
    with serving(router):
        done = run("status", "--router", router.address, env=WIDE)
        found = told("status", "--router", router.address)
    assert done.exit_code == 0
    for words in ("2/8", "recycling, suffix", "[red]far", "not connected", "1.75 x", "untried", "7 finished", "50%"):
        assert words in done.stdout, words
    (verifier,) = found["verifiers"]
    assert verifier["work"]["candidates"] == {"proposed": 200, "accepted": 100}
    assert [arm["speed"] for arm in found["arms"]] == [1.0, 1.75, None]
    assert [arm["bonus"] for arm in found["arms"]] == [0.25, 0.5, None]


def test_nobody_is_a_status_too() -> None:
    router = FakeRouter([router_pb2.GetStatusResponse(peer=a_status().peer, policy="ucb")])
    with serving(router):
        done = run("status", "--router", router.address)
    assert done.exit_code == 0
    assert "Verifiers: none; requests are refused" in done.stdout


def test_drafters_with_where_they_are_and_their_arms() -> None:
    router = FakeRouter([a_status(work(1.0, 100))])
    with serving(router):
        found = {one["name"]: one for one in told("drafters", "--router", router.address)}
    assert found["suffix"]["verifiers"] == ["v"]
    assert found["suffix"]["candidates"] == {"proposed": 200, "accepted": 100, "share": 0.5}
    assert [arm["label"] for arm in found["suffix"]["arms"]] == ["suffix"]
    assert (found["[red]far"]["verifiers"], found["[red]far"]["own"]) == ([], True)


def test_top_reckons_with_the_verifiers_own_clock() -> None:
    same = work(10.0, 1000)
    router = FakeRouter([a_status(one) for one in (same, same, work(12.0, 1300, queued=4))])
    with serving(router):
        found = told("top", "--once", "--router", router.address)
        router.statuses = [a_status(one) for one in (same, work(12.0, 1300, queued=4))]
        done = run("top", "--once", "--router", router.address, env=WIDE)
    assert found["tokens_per_s"] == 150.0
    assert found["rates"]["v"] == {"seconds": 2.0, "tokens_per_s": 150.0, "tokens_per_step": 2.0, "acceptance": 0.5}
    assert found["lately"]["suffix"] == {"proposed": 600, "accepted": 300, "share": 0.5}
    assert "150.0" in done.stdout
    assert "tokens/s" in done.stdout


def test_top_says_what_it_cannot_know() -> None:
    router = FakeRouter()  # whose verifier tells nothing
    with serving(router):
        found = told("top", "--once", "--router", router.address)
        done = run("top", "--once", "--router", router.address, env=WIDE)
    assert (found["tokens_per_s"], found["rates"]) == (None, {"v": None})
    assert "older than protocol 1.5" in done.stdout


class Metrics(BaseHTTPRequestHandler):
    """Two looks; the second has two more steps of 30 ms."""

    looks = 0

    def do_GET(self) -> None:
        type(self).looks += 1
        count = 2 * type(self).looks
        body = (
            "# TYPE paceline:step_seconds histogram\n"
            f'paceline:step_seconds_bucket{{le="+Inf"}} {count}\n'
            f"paceline:step_seconds_count {count}\npaceline:step_seconds_sum {count * 0.03}\n"
            "# TYPE paceline:kv_cache_usage_perc gauge\npaceline:kv_cache_usage_perc 0.25\n"
            "# TYPE strange gauge\nstrange NaN\n"
        ).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_top_shows_metrics_ports_and_those_that_do_not_answer() -> None:
    Metrics.looks = 0
    server = HTTPServer(("127.0.0.1", 0), Metrics)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    port = f"127.0.0.1:{server.server_port}"
    router = FakeRouter()
    try:
        with serving(router):
            ports = ("--metrics", port, "--metrics", "127.0.0.1:1")
            done = run("top", "--once", "--router", router.address, *ports, env=WIDE)
            found = told("top", "--once", "--router", router.address, *ports)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert "30.0" in done.stdout
    assert "25%" in done.stdout
    assert "Connection refused" in done.stdout
    assert found["metrics"][port]["values"]["strange"] is None
    assert "refused" in found["metrics"]["127.0.0.1:1"]["trouble"]


def revision(number: int, **fields: Any) -> trainer_pb2.Revision:
    manifest = trainer_pb2.RevisionManifest(
        drafter="tiny_lm" if number % 2 else "head",
        parent=f"{number - 1:064x}" if number else "",
        model="m",
        format="onnx",
        command="made",
        metrics={"acceptance": 0.5 + number / 100},
        files=[{"path": "w", "size": 2_000_000, "sha256": b"\x01" * 32}],
    )
    return trainer_pb2.Revision(
        revision_id=f"{number:064x}"[::-1], manifest=manifest, published_unix_s=1_700_000_000.0 + number, **fields
    )


@pytest.fixture
def trainer() -> FakeTrainer:
    return FakeTrainer([revision(number) for number in range(4, 0, -1)] + [revision(0, withdrawn="worse")])


def test_revisions_over_all_pages_of_the_trainer_that_the_router_knows(trainer: FakeTrainer) -> None:
    router = FakeRouter()
    with serving(router, trainer):
        router.statuses[0].members.append(member(router_pb2.ROLE_TRAINER, id="t", address=trainer.address))
        found = told("revisions", "--router", router.address)
        done = run("revisions", "--trainer", trainer.address, "--line", "head", "--limit", "2", env=WIDE)
    assert [one["metrics"]["acceptance"] for one in found] == pytest.approx([0.54, 0.53, 0.52, 0.51, 0.5])
    assert [one["withdrawn"] for one in found] == [None] * 4 + ["worse"]
    assert (found[0]["parent"], found[-1]["parent"]) == (f"{3:064x}", None)
    assert done.stdout.count("head") == 2
    assert "acceptance 0.54" in done.stdout
    assert "2023-11-14" in done.stdout or "2023-11-15" in done.stdout


def test_one_revision_by_enough_of_its_id(trainer: FakeTrainer) -> None:
    with serving(trainer=trainer):
        found = told("revisions", "4", "--trainer", trainer.address)
        done = run("revisions", "4" + "0" * 63, "--trainer", trainer.address, env=WIDE)
        missing = run("revisions", "ff", "--trainer", trainer.address)
        trainer.revisions.append(revision(0x14))
        several = run("revisions", "4", "--trainer", trainer.address)
    assert found["line"] == "head"
    assert found["files"] == [{"path": "w", "size": 2_000_000, "sha256": "01" * 32}]
    assert "2000000 bytes" in done.stdout
    assert (missing.exit_code, several.exit_code) == (1, 1)
    assert "give more of it" in several.stderr


def test_a_router_without_a_trainer_is_said() -> None:
    router = FakeRouter()
    with serving(router):
        done = run("revisions", "--router", router.address)
    assert done.exit_code == 1
    assert "knows no trainer" in done.stderr
