"""Schema drift: columns of the shop that no contract names. They are reported, never stored."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from bi_assets.contracts.contract import Contract

SCHEMA = [
    """CREATE TABLE IF NOT EXISTS meta.drift (
        table_name VARCHAR, column_name VARCHAR, events BIGINT, first_seen TIMESTAMP,
        last_seen TIMESTAMP)""",
    """CREATE TABLE IF NOT EXISTS meta.seen_columns (table_name VARCHAR, column_name VARCHAR)""",
]
_EVERY_ROW_UP_TO = 1000
_STRIDE = 64


def record(con: duckdb.DuckDBPyConnection, contract: Contract, messages: pa.Table) -> None:
    """Note which columns the rows of a topic carry, and count the rows with unknown ones.

    Listing a row's columns costs as much as decoding it, so a large batch is looked at in every
    64th message and the last; where that shows anything new, every message is.
    """
    n = messages.num_rows
    if n > _EVERY_ROW_UP_TO:
        sample = messages.take(pa.array(sorted({*range(0, n, _STRIDE), n - 1}), pa.int64()))
        if not _news(con, contract, sample):
            return
    found = _columns(con, messages)
    known = {row[0] for row in con.execute(
        "SELECT column_name FROM meta.seen_columns WHERE table_name = ?", [contract.table]
    ).fetchall()}  # fmt: skip
    for name, events in found.items():
        if name in contract.fields:
            if name not in known:
                con.execute("INSERT INTO meta.seen_columns VALUES (?, ?)", [contract.table, name])
            continue
        con.execute(
            "MERGE INTO meta.drift d USING (SELECT $table AS t, $name AS c) s "
            "ON d.table_name = s.t AND d.column_name = s.c "
            "WHEN MATCHED THEN UPDATE SET events = d.events + $events, "
            "  last_seen = getvariable('landed_at') "
            "WHEN NOT MATCHED THEN INSERT VALUES "
            "  (s.t, s.c, $events, getvariable('landed_at'), getvariable('landed_at'))",
            {"table": contract.table, "name": name, "events": events},
        )


def _news(con: duckdb.DuckDBPyConnection, contract: Contract, sample: pa.Table) -> bool:
    seen = {row[0] for row in con.execute(
        "SELECT column_name FROM meta.seen_columns WHERE table_name = ?", [contract.table]
    ).fetchall()}  # fmt: skip
    return not set(_columns(con, sample)) <= seen


def _columns(con: duckdb.DuckDBPyConnection, messages: pa.Table) -> dict[str, int]:
    """Column name -> number of messages whose row image has it."""
    con.register("messages", messages)
    rows = con.execute("""
WITH texts AS (SELECT try(decode(CAST(value AS BLOB))) AS text FROM messages),
images AS (
  SELECT TRY_CAST(text AS JSON) AS json,
    CASE WHEN text LIKE '%"op":"d"%' THEN '$.before' ELSE '$.after' END AS path FROM texts
),
names AS (
  SELECT json_keys(json, path) AS names FROM images WHERE json_type(json, path) = 'OBJECT'
)
SELECT name, count(*) FROM (SELECT UNNEST(list_distinct(names)) AS name FROM names) GROUP BY name
""").fetchall()
    con.unregister("messages")
    return dict(rows)
