"""Schema drift: columns of the shop that no contract names. They are reported, never stored."""

from __future__ import annotations

from collections.abc import Mapping

import duckdb
import pyarrow as pa

from bi_assets.contracts.contract import Contract

SCHEMA = [
    """CREATE TABLE IF NOT EXISTS meta.drift (
        table_name VARCHAR, column_name VARCHAR, events BIGINT, first_seen TIMESTAMP,
        last_seen TIMESTAMP)""",
    "DROP TABLE IF EXISTS meta.seen_columns",
]
_EVERY_ROW_UP_TO = 1000
_SAMPLE = """"offset" % 256 = 0
  OR (partition, "offset") IN (SELECT (partition, max("offset")) FROM messages GROUP BY partition)"""


def record(con: duckdb.DuckDBPyConnection, contract: Contract, messages: pa.Table) -> None:
    """Count the rows of a topic that carry columns which the contract does not know.

    Listing a row's columns costs as much as decoding it, so a large batch is looked at in every
    256th message and the last of each partition; where that shows anything unknown, in every one.
    """
    con.register("messages", messages)
    found: dict[str, int] = {}
    if messages.num_rows <= _EVERY_ROW_UP_TO or not set(_columns(con, _SAMPLE)) <= contract.fields:
        found = _columns(con, "true")
    con.unregister("messages")
    note(con, contract, found)


def note(con: duckdb.DuckDBPyConnection, contract: Contract, found: Mapping[str, int]) -> None:
    """Count rows by the columns they have, those that the contract does not know."""
    for name in found.keys() - contract.fields:
        con.execute(
            "MERGE INTO meta.drift d USING (SELECT $table AS t, $name AS c) s "
            "ON d.table_name = s.t AND d.column_name = s.c "
            "WHEN MATCHED THEN UPDATE SET events = d.events + $events, "
            "  last_seen = getvariable('landed_at') "
            "WHEN NOT MATCHED THEN INSERT VALUES "
            "  (s.t, s.c, $events, getvariable('landed_at'), getvariable('landed_at'))",
            {"table": contract.table, "name": name, "events": found[name]},
        )


def _columns(con: duckdb.DuckDBPyConnection, which: str) -> dict[str, int]:
    """Column name -> number of messages whose row image has it, among those of `which`."""
    rows = con.execute(f"""
WITH texts AS (SELECT try(decode(CAST(value AS BLOB))) AS text FROM messages WHERE {which}),
images AS (
  SELECT TRY_CAST(text AS JSON) AS json,
    CASE WHEN json_extract_string(json, '$.op') = 'd' THEN '$.before' ELSE '$.after' END AS path
  FROM texts
),
names AS (
  SELECT json_keys(json, path) AS names FROM images WHERE json_type(json, path) = 'OBJECT'
)
SELECT name, count(*) FROM (SELECT UNNEST(list_distinct(names)) AS name FROM names) GROUP BY name
""").fetchall()
    return dict(rows)
