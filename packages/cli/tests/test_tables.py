"""Tables fit where they are shown: what matters least is left out before anything is folded."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from paceline.cli.addresses import split_address
from paceline.cli.tables import GAP, Column, fitting, table_of

Given = list[tuple[Column[str], list[str | Text]]]


def columns(ranks: list[int], width: int) -> Given:
    return [(Column(str(rank), str, rank=rank), ["x" * width]) for rank in ranks]


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.integers(1, 20), st.integers(10, 200))
def test_what_ranks_highest_goes_first_and_what_ranks_zero_stays(ranks: list[int], width: int, room: int) -> None:
    shown = [column.rank for column, _ in fitting(columns(ranks, width), room)]
    assert shown.count(0) == ranks.count(0)
    left_out = sorted(ranks)
    for rank in shown:
        left_out.remove(rank)
    assert not left_out or min(left_out) >= max([rank for rank in shown if rank] or [0])
    fits = len(shown) * (width + GAP) <= room
    assert fits or not any(shown)
    assert len(shown) == len(ranks) or (len(shown) + 1) * (width + GAP) > room


def test_names_of_others_are_text_and_never_markup() -> None:
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(table_of("T", [Column("name", lambda one: one)], ["[red]x[/red]", "[/]"], "none"))
    text = console.export_text()
    assert "[red]x[/red]" in text
    assert "[/]" in text
    console.print(table_of("T", [Column[str]("name", str)], [], "none at all"))
    assert "T: none at all" in console.export_text()


@pytest.mark.parametrize(
    "address", ["", "host", "host:", ":1", "host:70000", "host:1\nhost:2", "a:b:1", "unix:/run/x", "http://h:1", "h:1 "]
)
def test_addresses_are_host_and_port_and_nothing_else(address: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        split_address(address)


def test_addresses_that_are() -> None:
    assert split_address("[::1]:7700") == ("::1", 7700)
    assert split_address("gpu-box.example:0") == ("gpu-box.example", 0)
