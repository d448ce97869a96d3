"""What Debezium sends again after a crash, told from what is new by its place in the binlog."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.landing.change_log import BINLOG_BASE, BINLOG_NUMBER
from bi_assets.landing.debezium_json import POSITION
from bi_assets.sql import one, quote

_SUMMARY = f"""
CREATE OR REPLACE TEMP TABLE stretches AS
SELECT *, {BINLOG_BASE} AS base, {BINLOG_NUMBER} AS file_number FROM (
  SELECT _partition, _op = 'r' AS is_snapshot, _server_id, _binlog_file, count(*) AS n,
    min(_binlog_pos) AS first_pos, max(_binlog_pos) AS last_pos, max(_offset) AS last_offset,
    max(_source_ts) AS last_source_ts
  FROM landed GROUP BY ALL)"""

# Where each partition has got to; a partition of a new broker, where the topic had got to before.
_MARKS = """
topic_marks AS (
  SELECT arg_max(server_id, mark) AS server_id, arg_max(base, mark) AS base, max(mark) AS mark
  FROM (SELECT server_id, base, (file_number, pos) AS mark FROM meta.offsets
        WHERE topic = $topic AND pos IS NOT NULL)
),
marks AS (
  SELECT partition, server_id, base, (file_number, pos) AS mark FROM meta.offsets
  WHERE topic = $topic AND cluster_id = $cluster AND topic_id = $topic_id AND pos IS NOT NULL
),
placed AS (
  SELECT s.*, coalesce(m.mark, t.mark) AS mark,
    (s._server_id, s.base) IS NOT DISTINCT FROM
      (coalesce(m.server_id, t.server_id), coalesce(m.base, t.base)) AS comparable
  FROM stretches s CROSS JOIN topic_marks t LEFT JOIN marks m ON m.partition = s._partition
  WHERE NOT s.is_snapshot
)"""


@dataclass(frozen=True)
class Staged:
    """What is in `landed`."""

    rows: int
    duplicates: int
    has_snapshot: bool


def stage(con: duckdb.DuckDBPyConnection, contract: Contract, topic: str, source: tuple[str, str]) -> Staged:
    """Make the temporary view `landed`: the sound rows of `decoded`, duplicates out.

    A duplicate is a change with the same server, file, position, row and key as an earlier one, and
    the same content; what differs in content is kept. Almost always a look at where the batch's
    stretches of the binlog begin shows that there is none. Only rows at or below the highest
    position that their partition has landed, or at a place that the batch has twice, are looked up.
    Leaves the temporary table `stretches`. `source` is (cluster id, topic id or name).
    """
    names = ", ".join(quote(name) for name in (*contract.names, "_before", *POSITION))
    con.execute(f"CREATE OR REPLACE TEMP VIEW landed AS SELECT {names} FROM decoded WHERE _cause IS NULL")
    con.execute(_SUMMARY)
    at = {"topic": topic, "cluster": source[0], "topic_id": source[1]}
    rows, has_snapshot, doubtful = one(con, f"""
WITH {_MARKS}
SELECT coalesce(sum(n), 0)::BIGINT, coalesce(bool_or(is_snapshot), false), (SELECT count(*) FROM placed
        WHERE mark IS NOT NULL AND (NOT comparable OR (file_number, first_pos) <= mark))
     + (SELECT count(*) FROM (SELECT 1 FROM landed WHERE _op <> 'r'
        GROUP BY _binlog_pos, _row HAVING count(*) > 1))
FROM stretches""", at)  # fmt: skip
    duplicates = _drop(con, contract, at) if doubtful else 0
    if duplicates:
        con.execute(_SUMMARY)
    return Staged(rows - duplicates, duplicates, has_snapshot)


def _drop(con: duckdb.DuckDBPyConnection, contract: Contract, at: dict[str, str]) -> int:
    place = ("_server_id", "_binlog_file", "_binlog_pos", "_row")
    columns = [quote(name) for name in dict.fromkeys([*contract.names, "_op", "_before", *place])]
    keys = [*map(quote, contract.key), "_binlog_pos"]
    same = " AND ".join(f"l.{c} IS NOT DISTINCT FROM d.{c}" for c in columns if c not in keys)
    same_key = " AND ".join(f"l.{key} = d.{key}" for key in keys)
    names = ", ".join(columns)
    (dropped,) = one(con, f"""
DELETE FROM decoded WHERE rowid IN (
  WITH {_MARKS},
  repeated AS (
    SELECT {", ".join(place)} FROM landed WHERE _op <> 'r' GROUP BY ALL HAVING count(*) > 1
  ),
  suspects AS (
    SELECT d.rowid AS _id, d.* FROM decoded d
    JOIN placed p ON (d._partition, d._server_id, d._binlog_file)
      IS NOT DISTINCT FROM (p._partition, p._server_id, p._binlog_file)
    WHERE d._cause IS NULL AND d._op <> 'r' AND d._snapshot <> 'truncate' AND (
      (p.mark IS NOT NULL AND (NOT p.comparable OR (p.file_number, d._binlog_pos) <= p.mark))
      OR ({", ".join(f"d.{name}" for name in place)}) IN (SELECT ({", ".join(place)}) FROM repeated))
  ),
  earlier AS (
    SELECT true AS is_logged, -1 AS _partition, -1 AS _offset, {names} FROM cdc.{quote(contract.table)}
    WHERE _op <> 'r' AND _binlog_pos IN (SELECT _binlog_pos FROM suspects)
    UNION ALL SELECT false, _partition, _offset, {names} FROM landed WHERE _op <> 'r'
  )
  SELECT d._id FROM suspects d JOIN earlier l ON {same_key} AND {same}
    AND (l.is_logged OR (l._partition, l._offset) < (d._partition, d._offset))
)""", at)  # fmt: skip
    return int(dropped)
