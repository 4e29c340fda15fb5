"""The measuring of losses, on a size at which it takes seconds."""

from __future__ import annotations

import json
from pathlib import Path

import losses
import pytest
import typer
from loss_memory import Cost, Size, measure_apart
from typer.testing import CliRunner

SMALL = Size(positions=2048, vocab_size=4096, width=16, chunk=32)

app = typer.Typer()
app.command()(losses.main)


def test_chunks_need_a_fraction_of_the_memory_for_the_same_loss() -> None:
    plain = measure_apart("forward_kl", "plain", SMALL, 1)
    chunked = measure_apart("forward_kl", "chunked", SMALL, 1)
    logits = 4 * SMALL.positions * SMALL.vocab_size
    assert plain.loss == pytest.approx(chunked.loss, rel=1e-5)
    assert plain.peak_bytes > 2 * logits
    assert chunked.peak_bytes < logits / 2


def test_the_report_has_both_ways_of_each_loss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        losses,
        "measure_apart",
        lambda name, way, size, threads: Cost(800 if way == "plain" else 100, 2.0, 0.5),
    )
    result = CliRunner().invoke(app, ["--objectives", "tvd, ce", "--json", str(tmp_path / "out.json")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert list(report["objectives"]) == ["tvd", "ce"]
    assert report["objectives"]["ce"]["plain"] == {"peak_bytes": 800, "seconds": 2.0, "loss": 0.5}
    assert report["logits_bytes"] == 4 * 4096 * 49_152
    assert "8.0" in result.output


def test_names_that_are_no_losses_are_refused() -> None:
    result = CliRunner().invoke(app, ["--objectives", "guess"])
    assert result.exit_code == 1
