"""Tables of the commands lose nothing, however narrow the place they are printed to."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from fhir_ext.cli import printing

UID = "1.2.826.0.1.3680043.8.498." + "7" * 38


def test_a_pipe_gets_names_and_long_words_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(printing.whole("study"), "service", "action", "reason")
    table.add_row(UID, "aerated-attenuation", "activate", "[bold]as told[/]")

    printing.show(table)

    line = next(line for line in capsys.readouterr().out.splitlines() if "activate" in line)
    assert all(word in line for word in (UID, "aerated-attenuation", "[bold]as told[/]"))


def test_a_narrow_terminal_folds_words_instead_of_cutting_them() -> None:
    out = io.StringIO()
    table = Table(printing.whole("version"), "action")
    table.add_row("2026.11.24-rc.1", "x" * 60)

    printing.show(table, Console(file=out, width=30))

    assert out.getvalue().count("x") == 60
    assert "2026.11.24-rc.1" in out.getvalue()
    assert "…" not in out.getvalue()


def test_a_row_that_a_terminal_has_no_room_for_becomes_lines() -> None:
    out = io.StringIO()
    table = Table(printing.whole("service"), printing.whole("version"), "became", "who", "reason")
    table.add_row("aerated-attenuation", "1.1.0", "active → retired", "root (cli)", "")
    table.add_row("aerated-attenuation", "1.0.0", "draft → shadow", printing.mark(True, "x", ""))

    printing.show(table, Console(file=out, width=50, markup=False))

    assert out.getvalue().splitlines() == [
        "aerated-attenuation  1.1.0",
        "    became: active → retired",
        "    who: root (cli)",
        "aerated-attenuation  1.0.0",
        "    became: draft → shadow",
        "    who: x",
    ]


def test_an_empty_table_can_be_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    printing.show(Table("run"), empty="nothing is parked")
    assert capsys.readouterr().out == "nothing is parked\n"
    printing.show(Table("run"))
    assert "run" in capsys.readouterr().out
