"""How commands print tables: nothing is cut, for people copy names and UIDs out of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from rich.console import Console, RenderableType
from rich.table import Column, Table
from rich.text import Text

#: Characters of a line where no terminal says how many it has: a file, a pipe, a job's log.
PLAIN_WIDTH: Final = 160

#: Fewest characters of a line in which words are not torn into pieces.
_READABLE: Final = 10


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

    Where the terminal leaves columns too little, each row becomes some lines of its own.

    Args:
        table: see `whole` for columns that must not be folded.
        to: standard output when None.
        empty: what is said instead of a table without rows.
    """
    to = to or console()
    if not table.row_count and empty is not None:
        to.print(empty)
        return
    for column in table.columns:
        column.overflow = "fold"
    if _least(table, to) <= to.width:
        to.print(table)
        return
    for line in _stacked(table, to):
        to.print(line, soft_wrap=True)


def _least(table: Table, to: Console) -> int:
    """Characters of a line in which a table can be read."""
    widths = 1
    for column in table.columns:
        longest = max(_text(cell, to).cell_len for cell in (column.header, *column.cells))
        widths += 3 + (longest if column.no_wrap else min(longest, _READABLE))
    return widths


def _stacked(table: Table, to: Console) -> Iterator[Text]:
    """Each row as a line of what people copy, and a line for everything else it says."""
    if table.title:
        yield _text(table.title, to)
    names = [_text(column.header, to).plain for column in table.columns]
    heads = {index for index, column in enumerate(table.columns) if column.no_wrap} or {0}
    for row in zip(*(column.cells for column in table.columns), strict=True):
        cells = [_text(cell, to) for cell in row]
        yield Text("  ").join(cells[index] for index in sorted(heads))
        for index, (name, cell) in enumerate(zip(names, cells, strict=True)):
            if index not in heads and cell.plain:
                yield Text(f"    {name}: " if name else "    ").append_text(cell)


def _text(cell: RenderableType, to: Console) -> Text:
    return cell if isinstance(cell, Text) else to.render_str(str(cell))
