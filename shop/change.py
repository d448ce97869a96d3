"""What the shop's behaviour is made of: transactions of row changes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Change:
    """One changed row.

    `key` holds the primary key before the change. `values` holds every column for
    an insert, only the changed ones for an update, none for a delete. Money is
    Decimal, times are aware (UTC) with millisecond resolution.
    """

    table: str
    op: Literal["insert", "update", "delete"]
    key: Mapping[str, Any]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Transaction:
    """Changes that the shop commits together, at a time in UTC."""

    at: datetime
    changes: list[Change]


def statements(changes: list[Change]) -> Iterator[list[Change]]:
    """Group changes as the shop's SQL does: neighbouring inserts into, or deletes from, one table.

    Rows of one statement share a binlog position; updates are a statement each.
    """
    for (_, op), group in groupby(changes, key=lambda change: (change.table, change.op)):
        if op == "update":
            yield from ([change] for change in group)
        else:
            yield list(group)
