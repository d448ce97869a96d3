"""Small helpers for SQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb

ENVIRONMENT = (
    duckdb.IOException,
    duckdb.OutOfMemoryException,
    duckdb.InterruptException,
    OSError,
    MemoryError,
)
"""Errors of the machine, not of the data: disk, memory, an interruption."""


def quote(name: str) -> str:
    """Return an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def one(con: duckdb.DuckDBPyConnection, sql: str, parameters: object = None) -> tuple[Any, ...]:
    """Return the only row of a query. Errors: `LookupError` where it has none or more."""
    rows = con.execute(sql, parameters).fetchall()
    if len(rows) != 1:
        raise LookupError(f"expected one row, found {len(rows)}: {sql}")
    return rows[0]


@contextmanager
def transaction(con: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All or nothing."""
    con.execute("BEGIN")
    try:
        yield
    except BaseException:
        con.execute("ROLLBACK")
        raise
    con.execute("COMMIT")
