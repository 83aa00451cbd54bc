"""How commands print tables: nothing is cut, for people copy names and UIDs out of them."""

from __future__ import annotations

import sys
from typing import Final

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

#: Characters of a line where no terminal says how many it has: a file, a pipe, a job's log.
PLAIN_WIDTH: Final = 160


def console(*, markup: bool = False) -> Console:
    """Standard output, as wide as its terminal.

    Args:
        markup: whether `[bold]` means something; never where somebody else's words are shown.
    """
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(width=width, markup=markup)


def whole(name: str) -> Column:
    """A column that is neither cut nor folded: what stands there is copied into a command."""
    return Column(name, no_wrap=True)


def mark(holds: bool, yes: str, no: str) -> Text:
    """A verdict, green or red."""
    return Text(yes, style="green") if holds else Text(no, style="red")


def show(table: Table, to: Console | None = None, *, empty: str | None = None) -> None:
    """Print a table; words that are longer than their column go on in the next line.

    Args:
        table: see `whole` for columns that must not be folded.
        to: standard output when None.
        empty: what is said instead of a table without rows.
    """
    to = to or console()
    for column in table.columns:
        column.overflow = "fold"
    to.print(table if table.row_count or empty is None else empty)
