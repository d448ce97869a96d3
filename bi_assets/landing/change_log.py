"""The append-only change logs `cdc.TABLE`: no change twice, no change lost."""

from __future__ import annotations

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.landing.columns import stored_type
from bi_assets.landing.debezium_json import POSITION, before_type
from bi_assets.sql import one, quote

BINLOG_BASE = "regexp_replace(_binlog_file, '\\.[0-9]+$', '')"
"""`binlog` of `binlog.000012`: positions of another base name can't be compared."""
BINLOG_NUMBER = "TRY_CAST(regexp_extract(_binlog_file, '([0-9]+)$', 1) AS BIGINT)"
"""12 of `binlog.000012`: compared as a number, since `pos` starts anew in each file."""


def create_sql(contract: Contract, pseudonym_key: str | None) -> list[str]:
    """Return the statements that make the change log of a table, or add the columns that are new.

    No key and no index: appends stay cheap, and duplicates are found by position.
    """
    columns = [f"{quote(c.name)} {stored_type(c, pseudonym_key)}" for c in contract.columns]
    columns.append(f"_before {before_type(contract, pseudonym_key)}")
    columns += [f"{name} {kind}" for name, kind in POSITION.items()]
    columns += ["_landed_at TIMESTAMP", "_batch_id BIGINT"]
    table = f"cdc.{quote(contract.table)}"
    statements = [f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)})"]
    for column in contract.columns:
        name, kind = quote(column.name), stored_type(column, pseudonym_key)
        statements.append(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {name} {kind}")
        statements.append(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS _before.{name} {kind}")
    return statements


def stage(con: duckdb.DuckDBPyConnection, contract: Contract, topic: str, source: tuple[str, str]) -> int:
    """Take the sound rows of `decoded` into the temporary table `landed`, duplicates out.

    A duplicate is a change that Debezium sent again after a crash: same server, file, position,
    row and key, and the same content; what differs in content is kept. Only rows at or below the
    highest position that their partition has landed, or out of order in the batch, are looked up.
    Returns the number of duplicates. `source` is (cluster id, topic id or name).
    """
    names = ", ".join(quote(name) for name in (*contract.names, "_before", *POSITION))
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE landed AS
WITH sound AS (
  SELECT {names}, {BINLOG_BASE} AS base, (coalesce({BINLOG_NUMBER}, 0), _binlog_pos, _row) AS place
  FROM decoded WHERE _cause IS NULL
),
topic_marks AS (  -- where an earlier broker or topic of this name had got to
  SELECT arg_max(server_id, mark) AS server_id, arg_max(base, mark) AS base, max(mark) AS mark
  FROM (SELECT server_id, base, (file_number, pos, "row") AS mark FROM meta.offsets
        WHERE topic = $topic AND pos IS NOT NULL)
),
marks AS (
  SELECT partition, server_id, base, (file_number, pos, "row") AS mark FROM meta.offsets
  WHERE topic = $topic AND cluster_id = $cluster AND topic_id = $topic_id AND pos IS NOT NULL
)
SELECT s.* EXCLUDE (base, place),
  _op <> 'r' AND _binlog_pos IS NOT NULL AND coalesce(
    CASE WHEN (s._server_id, s.base) IS NOT DISTINCT FROM
              (coalesce(m.server_id, t.server_id), coalesce(m.base, t.base))
         THEN place <= coalesce(m.mark, t.mark)
         ELSE coalesce(m.mark, t.mark) IS NOT NULL END
    OR place <= max(place) OVER (PARTITION BY _partition, s._server_id, s.base ORDER BY _offset
                           ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), false) AS suspect
FROM sound s CROSS JOIN topic_marks t LEFT JOIN marks m ON m.partition = s._partition
ORDER BY _partition, _offset
""", {"topic": topic, "cluster": source[0], "topic_id": source[1]})  # fmt: skip
    (suspects,) = one(con, "SELECT count(*) FROM landed WHERE suspect")
    duplicates = _drop_duplicates(con, contract) if suspects else 0
    con.execute("ALTER TABLE landed DROP COLUMN suspect")
    return duplicates


def append(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """Append `landed` to the change log. Parameters of the batch are session variables."""
    con.execute(f"""
INSERT INTO cdc.{quote(contract.table)} BY NAME
SELECT *, getvariable('landed_at') AS _landed_at, getvariable('batch_id') AS _batch_id FROM landed
""")


def _drop_duplicates(con: duckdb.DuckDBPyConnection, contract: Contract) -> int:
    identity = [*contract.key, "_server_id", "_binlog_file", "_binlog_pos", "_row"]
    content = [*contract.names, "_op", "_before"]
    same = " AND ".join(
        f"l.{quote(name)} IS NOT DISTINCT FROM d.{quote(name)}"
        for name in dict.fromkeys([*content, *identity])
        if name not in contract.key and name != "_binlog_pos"
    )
    keys = " AND ".join(f"l.{quote(name)} = d.{quote(name)}" for name in (*contract.key, "_binlog_pos"))
    names = ", ".join(quote(name) for name in dict.fromkeys([*identity, *content]))
    (dropped,) = one(
        con,
        f"""
DELETE FROM landed WHERE rowid IN (
  WITH suspects AS (SELECT rowid AS ord, * FROM landed WHERE suspect),
  earlier AS (
    SELECT -1 AS ord, {names} FROM cdc.{quote(contract.table)}
    WHERE _binlog_pos IN (SELECT _binlog_pos FROM suspects)
    UNION ALL SELECT rowid, {names} FROM landed
  )
  SELECT d.ord FROM suspects d JOIN earlier l ON {keys} AND {same} AND l.ord < d.ord AND l._op <> 'r'
)""",
    )
    return int(dropped)
