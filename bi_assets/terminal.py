"""What is printed on the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from bi_assets.micro_batch import Pace

_LINE_EVERY_SECONDS = 10.0

console = Console(highlight=False)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    console.print(table)


@contextmanager
def landing_progress(*, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Show on stderr how far landing is: a bar on a terminal, a line now and then elsewhere.

    Gives the function that is told the messages landed and those to come.
    """
    if quiet:
        yield lambda done, left: None
    elif sys.stderr.isatty():
        from rich.progress import BarColumn, Progress, TextColumn

        pace = Pace()
        columns = (TextColumn("landing"), BarColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda done, left: bar.update(
                task, completed=done, total=done + left, description=pace.tell(done, left)
            )
    else:
        pace, told_at = Pace(), time.monotonic()

        def tell(done: int, left: int) -> None:
            nonlocal told_at
            if time.monotonic() - told_at > _LINE_EVERY_SECONDS:
                told_at = time.monotonic()
                print(pace.tell(done, left), file=sys.stderr, flush=True)

        yield tell
