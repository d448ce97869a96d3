"""The first results, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb


@dataclass(frozen=True)
class Preview:
    """A small table to look at."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def first_results(published: Path) -> list[Preview]:
    """Return the average order value by discount, where it has been published and has rows."""
    if not published.exists():
        return []
    with duckdb.connect(str(published), read_only=True) as con:
        result = con.execute(
            "SELECT discount, avg_order_value, n_orders, last_event_at "
            "FROM avg_order_value_by_discount ORDER BY discount DESC"
        )
        columns = [column[0] for column in result.description or []]
        rows = result.fetchall()
    title = "Average order value by the discount that the patient had when ordering"
    return [Preview(title, columns, rows)] if rows else []
