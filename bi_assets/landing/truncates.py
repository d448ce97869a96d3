"""Truncates: what a table held at that place in the binlog is deleted there.

Debezium sends them where it is told to (`skipped.operations=none`): one message without key or row.
Each row that the table held becomes a delete at the truncate's place, marked `_snapshot = 'truncate'`.
A truncate's partition is any. Within one server's binlog that does not matter, whatever came first:
a change from before the truncate that arrives later is closed, too. Where positions can't be compared
(another server), what had landed when the truncate came is what it deletes.
"""

from __future__ import annotations

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.landing.change_log import BINLOG_BASE, BINLOG_NUMBER
from bi_assets.landing.debezium_json import TRUNCATED
from bi_assets.sql import literal, one, quote

SCHEMA = [
    """CREATE TABLE IF NOT EXISTS meta.truncates (
        table_name VARCHAR, topic VARCHAR, partition INTEGER, "offset" BIGINT, server_id BIGINT,
        base VARCHAR, file_number BIGINT, binlog_file VARCHAR, pos BIGINT, "row" BIGINT, gtid VARCHAR,
        source_ts TIMESTAMP, batch_id BIGINT)""",
]


def take(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """Move the truncates from `decoded` to `meta.truncates`; one that was sent again is there already."""
    con.execute(f"""
INSERT INTO meta.truncates BY NAME
SELECT {literal(contract.table)} AS table_name, _topic AS topic, _partition AS partition,
  _offset AS "offset", _server_id AS server_id, {BINLOG_BASE} AS base, {BINLOG_NUMBER} AS file_number,
  _binlog_file AS binlog_file, _binlog_pos AS pos, _row AS "row", _gtid AS gtid,
  _source_ts AS source_ts, getvariable('batch_id') AS batch_id
FROM decoded d
WHERE _cause = {literal(TRUNCATED)} AND NOT EXISTS (
  FROM meta.truncates t WHERE t.table_name = {literal(contract.table)} AND t.server_id = d._server_id
    AND t.binlog_file = d._binlog_file AND t.pos = d._binlog_pos)
QUALIFY row_number() OVER (PARTITION BY _server_id, _binlog_file, _binlog_pos
                           ORDER BY _partition, _offset) = 1""")
    con.execute("DELETE FROM decoded WHERE _cause = ?", [TRUNCATED])


def close(con: duckdb.DuckDBPyConnection, contract: Contract) -> int:
    """Add to `decoded` the deletes that truncates make; return how many.

    A new truncate deletes what the table held; a known one what comes only now and was before it: that
    may be a row that it has deleted already as it was before, see `versions` for which one counts.
    """
    table = literal(contract.table)
    names = ", ".join(quote(name) for name in contract.names)
    key = ", ".join(quote(name) for name in contract.key)
    place = f"""_op, _server_id, {BINLOG_BASE} AS base, {BINLOG_NUMBER} AS file_number, _binlog_pos, _row,
  _partition, _offset"""
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE truncating AS
WITH coming AS (SELECT {place} FROM decoded WHERE _cause IS NULL)
SELECT *, batch_id = getvariable('batch_id') AS is_new FROM meta.truncates t
WHERE table_name = {table} AND (is_new OR EXISTS (
  FROM coming c WHERE c.base = t.base AND c._server_id IN (0, t.server_id)
    AND (c.file_number, c._binlog_pos, c._row) < (t.file_number, t.pos, t."row")))""")
    new, any_at_all = one(con, "SELECT coalesce(bool_or(is_new), false), count(*) > 0 FROM truncating")
    if not any_at_all:
        return 0
    of_coming = "" if new else f"SEMI JOIN decoded USING ({key})"
    (closed,) = one(con, f"""
INSERT INTO decoded BY NAME
WITH changes AS (
  SELECT {names}, {place}, _batch_id, false AS is_coming FROM cdc.{quote(contract.table)} {of_coming}
  UNION ALL
  SELECT {names}, {place}, getvariable('batch_id'), true FROM decoded WHERE _cause IS NULL
),
before AS (
  SELECT c.*, t.server_id, t.binlog_file, t.pos, t."row", t.gtid, t.source_ts, t.topic, t.partition,
    t."offset", t.is_new, c.base = t.base AND c._server_id IN (0, t.server_id) AS is_comparable
  FROM changes c JOIN truncating t ON CASE
    WHEN c.base = t.base AND c._server_id IN (0, t.server_id)
      THEN (c.file_number, c._binlog_pos, c._row) < (t.file_number, t.pos, t."row")
    WHEN c._batch_id = t.batch_id THEN c._partition = t.partition AND c._offset < t."offset"
    ELSE c._batch_id < t.batch_id END
),
last_before AS (
  SELECT * FROM before
  QUALIFY row_number() OVER (
    PARTITION BY {key}, server_id, binlog_file, pos
    ORDER BY is_comparable DESC, CASE WHEN is_comparable THEN (file_number, _binlog_pos) END DESC,
      CASE WHEN is_comparable THEN (_op <> 'r', _row) END DESC, _batch_id DESC, _partition DESC,
      _offset DESC) = 1
)
SELECT {names}, 'd' AS _op, source_ts AS _source_ts, server_id AS _server_id, binlog_file AS _binlog_file,
  pos AS _binlog_pos, "row" AS _row, gtid AS _gtid, 'truncate' AS _snapshot, topic AS _topic,
  -1 AS _partition, 0 AS _offset  -- it may have been sent through several
FROM last_before WHERE _op <> 'd' AND (is_new OR is_coming)
-- Of two truncates without a change between, the first has deleted it.
QUALIFY row_number() OVER (PARTITION BY {key}, base, file_number, _binlog_pos, _row, _batch_id, _partition,
  _offset ORDER BY {BINLOG_NUMBER.replace("_binlog_file", "binlog_file")}, pos) = 1""")  # fmt: skip
    return int(closed)
