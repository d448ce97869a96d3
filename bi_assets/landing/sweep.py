"""Mark and sweep: rows that a new snapshot of their table no longer holds.

A snapshot tells of the rows that there are, and not of those that went while the connector could not
see it. Once a snapshot of a table is there as a whole (Debezium marks its last row), rows that are
known from before and are not in it have vanished. They are reported; a person applies it. What is
applied are deletes in the change log, marked `_snapshot = 'sweep'`, at the snapshot's time and place.

An incremental snapshot may be of a part of a table, and sweeps nothing. A table that was empty when
the snapshot was taken has no row that could tell of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.errors import UserError
from bi_assets.history import touched, versions
from bi_assets.history.versions import OPEN_END
from bi_assets.landing.change_log import BINLOG_BASE, BINLOG_NUMBER
from bi_assets.settings import Settings
from bi_assets.sql import literal, one, quote

SCHEMA = [
    """CREATE TABLE IF NOT EXISTS meta.snapshot_runs (
        table_name VARCHAR, binlog_file VARCHAR, pos BIGINT, taken_at TIMESTAMP, first_batch BIGINT,
        is_complete BOOLEAN, is_first BOOLEAN)""",
]
_NEWEST_RUN = """
FROM meta.snapshot_runs WHERE table_name = $table
ORDER BY first_batch DESC, taken_at DESC, pos DESC LIMIT 1"""


@dataclass(frozen=True)
class Vanished:
    """Rows that were there before a snapshot of their table (taken then, UTC) and are not in it."""

    taken_at: datetime
    rows: list[dict[str, Any]]


def note_runs(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """Remember the snapshots whose rows are in `landed`. Call it before these are in the log."""
    con.execute(f"""
MERGE INTO meta.snapshot_runs r USING (
  SELECT _binlog_file, _binlog_pos, max(_source_ts) AS taken_at,
    bool_or(_snapshot IN ('last', 'last_in_data_collection')) AS is_complete
  FROM landed WHERE _op = 'r' AND _snapshot <> 'incremental' GROUP BY ALL
) f ON r.table_name = {literal(contract.table)} AND r.binlog_file = f._binlog_file AND r.pos = f._binlog_pos
WHEN MATCHED THEN UPDATE SET is_complete = r.is_complete OR f.is_complete
WHEN NOT MATCHED THEN INSERT VALUES ({literal(contract.table)}, f._binlog_file, f._binlog_pos, f.taken_at,
  getvariable('batch_id'), f.is_complete,
  NOT EXISTS (FROM cdc.{quote(contract.table)}) AND NOT EXISTS (
    FROM landed WHERE _source_ts <= f.taken_at
      AND (_op <> 'r' OR (_binlog_file, _binlog_pos) <> (f._binlog_file, f._binlog_pos))))""")


def vanished(con: duckdb.DuckDBPyConnection, contract: Contract, topic: str) -> Vanished | None:
    """Return the keys of a table that its newest snapshot no longer holds; None where there is none to ask.

    There is none while the snapshot, or what Kafka had when it landed, has not landed as a whole.
    """
    run = con.execute(
        f"""
SELECT binlog_file, pos, taken_at, first_batch FROM ({_NEWEST_RUN})
WHERE is_complete AND NOT is_first
  AND NOT EXISTS (FROM meta.offsets WHERE topic = $topic AND next_offset < end_offset)""",
        {"table": contract.table, "topic": topic},
    ).fetchall()
    if not run:
        return None
    ((file, pos, taken_at, first_batch),) = run
    key = ", ".join(quote(name) for name in contract.key)
    found = con.execute(f"""
SELECT {key} FROM cdc.{quote(contract.table)} c
WHERE _valid_to = {OPEN_END} AND _op <> 'd' AND _source_ts <= $taken_at
  -- what a stream from the snapshot on has told is newer than the snapshot
  AND NOT ({BINLOG_BASE} = regexp_replace($file, '\\.[0-9]+$', '') AND _batch_id >= $first_batch
    AND ({BINLOG_NUMBER}, _binlog_pos) > (CAST(regexp_extract($file, '([0-9]+)$', 1) AS BIGINT), $pos))
  AND ({key}) NOT IN (
    SELECT ({key}) FROM cdc.{quote(contract.table)}
    WHERE _op = 'r' AND _snapshot <> 'incremental' AND _binlog_file = $file AND _binlog_pos = $pos)
ORDER BY ALL""", {"file": file, "pos": pos, "taken_at": taken_at, "first_batch": first_batch})  # fmt: skip
    return Vanished(taken_at, [dict(zip(contract.key, row, strict=True)) for row in found.fetchall()])


def apply(
    con: duckdb.DuckDBPyConnection, contract: Contract, known: frozenset[str], settings: Settings
) -> Vanished:
    """Delete the rows that vanished, as of the snapshot. Call it inside a transaction.

    `known` are the tables that have a contract. Errors: `UserError` where there is nothing to sweep.
    """
    topic = settings.topic(contract.table)
    found = vanished(con, contract, topic)
    if found is None or not found.rows:
        raise UserError(
            f"There is nothing to sweep in {contract.table}: every row that is known is in its newest whole "
            "snapshot, or there was none since the first. If one is under way, run `pharmacy-bi sync` first."
        )
    (batch_id,) = one(con, "SELECT nextval('meta.batch_ids')")
    now = datetime.now(UTC).replace(tzinfo=None)
    con.execute(
        f"SET VARIABLE batch_id = {batch_id}; SET VARIABLE landed_at = TIMESTAMP '{now.isoformat(sep=' ')}'"
    )
    names = ", ".join(quote(name) for name in contract.names)
    key = ", ".join(quote(name) for name in contract.key)
    con.execute("CREATE OR REPLACE TEMP TABLE swept AS SELECT UNNEST(?, recursive := true)", [found.rows])
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE sweeping AS
SELECT {names}, NULL::VARCHAR AS _before, 'd' AS _op, r.taken_at AS _source_ts, 0::BIGINT AS _server_id,
  r.binlog_file AS _binlog_file, r.pos AS _binlog_pos,
  -1::BIGINT AS _row,  -- before any change of the stream at that place
  NULL::VARCHAR AS _gtid, 'sweep' AS _snapshot, {literal(topic)} AS _topic,
  -1 AS _partition,  -- it is in none
  row_number() OVER () AS _offset, NULL::VARCHAR AS _other_key
FROM cdc.{quote(contract.table)} SEMI JOIN swept USING ({key}),
  ({_NEWEST_RUN}) r
WHERE _valid_to = {OPEN_END}""", {"table": contract.table})  # fmt: skip
    con.execute("CREATE OR REPLACE TEMP VIEW landed AS FROM sweeping")
    versions.append(con, contract, settings.pseudonym_key, settings.business_timezone)
    touched.record(con, [contract.table], known, batch_id)
    return found
