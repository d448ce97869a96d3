"""The core file without its holes.

DuckDB uses the room that changed rows leave for what comes next, so that the file stays within
twice of what is in it; docs/operations.md has figures. It gives back only what is at the file's end,
though: after something large was deleted, or computed anew, most of a file may be empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb

from bi_assets.files import sync
from bi_assets.sql import one, quote
from bi_assets.warehouse import Warehouse, attach

WORTH_IT_BYTES = 64 << 20
_WORTH_IT_SHARE = 0.5

# What must be the same afterwards, besides the number of rows.
_SHAPE = {
    "columns": "SELECT schema_name, table_name, column_name, data_type, is_nullable, column_default, comment "
    "FROM duckdb_columns() WHERE database_name = $db AND NOT internal",
    "tables": "SELECT schema_name, table_name, comment FROM duckdb_tables() WHERE database_name = $db",
    "views": "SELECT schema_name, view_name, sql, comment FROM duckdb_views() "
    "WHERE database_name = $db AND NOT internal",
    "sequences": "SELECT schema_name, sequence_name, last_value, increment_by "
    "FROM duckdb_sequences() WHERE database_name = $db",
}


@dataclass(frozen=True)
class Compacted:
    """Size of the core file before and after, in bytes."""

    before: int
    after: int


def compact(warehouse: Warehouse, worth_it: int = WORTH_IT_BYTES) -> Compacted | None:
    """Rewrite the core file if more than half of it is free, and at least `worth_it` bytes are.

    It is copied into a draft beside it, and replaced when all is in the draft: whatever happens on
    the way, there is a whole file. Other writers wait. Returns None where it was left as it is.

    Errors: `RuntimeError` where the draft is not the same; the file is left as it is then.
    """
    return _rewrite(warehouse, worth_it)


def rewrite(warehouse: Warehouse) -> Compacted:
    """Rewrite the core file, so that nothing remains in it of what was deleted; as `compact` otherwise."""
    compacted = _rewrite(warehouse, None)
    assert compacted
    return compacted


def _rewrite(warehouse: Warehouse, worth_it: int | None) -> Compacted | None:
    core = warehouse.settings.core_file
    draft = core.with_name(f".{core.name}.draft")
    with warehouse.open() as con:
        for left_by_a_crash in core.parent.glob(f"{draft.name}*"):
            left_by_a_crash.unlink()
        if worth_it is not None and not _is_worth_it(con, worth_it):
            return None
        before = core.stat().st_size
        attach(con, draft, "draft")
        con.execute("COPY FROM DATABASE core TO draft")
        _compare(con)
        # Nothing may be left in a log beside either file: it would be taken for the other's.
        for name in ("core", "draft"):
            con.execute(f"CHECKPOINT {name}")
        con.execute("USE memory")
        for name in ("core", "draft"):
            con.execute(f"DETACH {name}")
        if Path(f"{core}.wal").exists():
            raise RuntimeError(f"{core} still has a log beside it")
        sync(draft)
        draft.replace(core)
        sync(core.parent)
    return Compacted(before, core.stat().st_size)


def _is_worth_it(con: duckdb.DuckDBPyConnection, worth_it: int) -> bool:
    block, total, free = one(
        con,
        "SELECT block_size, total_blocks, free_blocks FROM pragma_database_size() "
        "WHERE database_name = 'core'",
    )
    return bool(free * block >= worth_it and free > _WORTH_IT_SHARE * total)


def _compare(con: duckdb.DuckDBPyConnection) -> None:
    for what, sql in _SHAPE.items():
        core, draft = (con.execute(f"{sql} ORDER BY ALL", {"db": db}).fetchall() for db in ("core", "draft"))
        if core != draft:
            raise RuntimeError(f"the copy of the core database has other {what}")
    for schema, table, _ in con.execute(_SHAPE["tables"], {"db": "core"}).fetchall():
        name = f"{quote(schema)}.{quote(table)}"
        here, there = one(
            con, f"SELECT (SELECT count(*) FROM core.{name}), (SELECT count(*) FROM draft.{name})"
        )
        if here != there:
            raise RuntimeError(f"the copy of {name} has {there} rows, not {here}")
