"""How objects show themselves in a notebook: small, escaped, whatever they hold."""

from __future__ import annotations

import memphis_sync
from memphis_sync import Stats
from memphis_sync._base.in_notebook import CHARACTERS, ROWS, InNotebook, table, text_of


class Thing(InNotebook):
    _shown = ("name", "broken", "call", "missing")
    name = "<script>alert(1)</script>"

    @property
    def broken(self) -> None:
        raise RuntimeError("closed")

    def call(self) -> bytes:
        return b"\xff&" * 1000

    def __repr__(self) -> str:
        return "<Thing 'a' & b>"


def test_everything_is_escaped_and_cut_and_nothing_is_raised() -> None:
    shown = Thing()._repr_html_()
    assert "<script" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in shown
    assert "<td>broken</td><td>?</td>" in shown
    assert "<td>missing</td><td>?</td>" in shown
    assert "&lt;Thing &#x27;a&#x27; &amp; b&gt;" in shown
    assert len(shown) < 2000


def test_a_value_is_cut_and_one_that_cannot_be_shown_is_a_question_mark() -> None:
    class Bad:
        def __str__(self) -> str:
            raise ValueError

    assert text_of("x" * (CHARACTERS + 1)) == "x" * CHARACTERS + "…"
    assert text_of("x" * CHARACTERS) == "x" * CHARACTERS
    assert text_of(b"\xff<") == "\\xff&lt;"
    assert (text_of(Bad()), text_of(None)) == ("?", "")


def test_a_long_table_says_how_many_more_there_are() -> None:
    shown = table("t", ([number] for number in range(100)), ["n"], count=100)
    assert shown.count("<tr>") == ROWS + 1
    assert f"and {100 - ROWS} more" in shown


def test_counters_are_a_table() -> None:
    assert "<td>delivered</td><td>7</td>" in Stats(delivered=7)._repr_html_()
    assert "<td>delivered</td><td>3</td>" in memphis_sync.BulkResult(3, 0, (), 0.1)._repr_html_()


def test_a_client_that_is_not_connected_shows_itself() -> None:
    assert "not connected" in memphis_sync.Memphis()._repr_html_()
