"""What was true when: slowly changing dimensions (type 2) from the change logs.

`history.TABLE` holds every version of every row, `state.TABLE` is a view of the present. The
versions of a key are a pure function of its change-log rows, so that they are the same however
the rows arrived; only the keys that a batch touches are computed.
"""

from __future__ import annotations

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.landing.change_log import BINLOG_BASE, BINLOG_NUMBER
from bi_assets.landing.columns import stored_type
from bi_assets.sql import one, quote

BEGINNING = "TIMESTAMP '0001-01-01 00:00:00'"
"""`valid_from` of a value that is known only as what an update replaced."""
OPEN_END = "TIMESTAMP '9999-12-31 00:00:00'"
"""`valid_to` of the newest version."""

_VERSION = {
    "valid_from": "TIMESTAMP",
    "valid_to": "TIMESTAMP",
    "valid_from_is_exact": "BOOLEAN",
    "is_deleted": "BOOLEAN",
    "version_no": "INTEGER",
    "_op": "VARCHAR",
    "_server_id": "BIGINT",
    "_binlog_file": "VARCHAR",
    "_binlog_pos": "BIGINT",
    "_row": "BIGINT",
    "_topic": "VARCHAR",
    "_partition": "INTEGER",
    "_offset": "BIGINT",
}

_PLACE = "_op, _server_id, _binlog_file, _binlog_pos, _row, _topic, _partition, _offset"

DERIVED_COLUMNS = (*_VERSION, "business_date")
"""What history adds to a contract's columns (`business_date` where the contract names one)."""


def create_sql(contract: Contract, pseudonym_key: str | None) -> list[str]:
    """Return the statements that make `history.TABLE` and `state.TABLE`, or add what is new."""
    columns = [f"{quote(c.name)} {stored_type(c, pseudonym_key)}" for c in contract.columns]
    columns += [f"{name} {kind}" for name, kind in _VERSION.items()]
    if contract.business_date:
        columns.append("business_date DATE")
    table = quote(contract.table)
    present = ", ".join(quote(name) for name in [*contract.names, *_derived(contract)])
    return [
        f"CREATE TABLE IF NOT EXISTS history.{table} ({', '.join(columns)})",
        *(f"ALTER TABLE history.{table} ADD COLUMN IF NOT EXISTS {column}" for column in columns),
        f"CREATE OR REPLACE VIEW state.{table} AS SELECT {present} FROM history.{table} "
        f"WHERE valid_to = {OPEN_END} AND NOT is_deleted",
    ]


def update(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """Bring `history.TABLE` up to date for the keys in `landed`, whose rows are in the log.

    What it costs follows the change. A key that is new and comes once, as most do, has one version
    and nothing to be put in order. A known key whose changes all follow its newest version is
    computed on from there; only where something arrived out of order is its whole log read again.

    Leaves the temporary table `changed_TABLE`: the versions that came (`side` = 'new') and went
    ('old'), which is all that anything downstream may have to look at again.
    """
    table, key = quote(contract.table), ", ".join(quote(name) for name in contract.key)
    columns = ", ".join(quote(name) for name in (*contract.names, *_VERSION, *_derived(contract)))
    changed = quote(f"changed_{contract.table}")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE newest AS
SELECT rowid AS _id, {columns} FROM history.{table} SEMI JOIN landed USING ({key})
WHERE valid_to = {OPEN_END}""")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE busy_keys AS
SELECT {key} FROM landed GROUP BY ALL HAVING count(*) > 1 UNION SELECT {key} FROM newest""")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE {changed} AS
SELECT 'new' AS side, NULL::BIGINT AS _id, {columns} FROM ({
        _versions_sql(
            contract,
            f'''
  SELECT *, _source_ts AS valid_from, 1 AS version_no, {OPEN_END} AS valid_to
  FROM landed ANTI JOIN busy_keys USING ({key})''',
        )
    })""")
    (busy,) = one(con, "SELECT count(*) FROM busy_keys")
    if busy:
        _compute_busy(con, contract, columns)
    con.execute(f"DELETE FROM history.{table} WHERE rowid IN (SELECT _id FROM {changed} WHERE side = 'old')")
    con.execute(f"""
INSERT INTO history.{table} BY NAME
SELECT * EXCLUDE (side, _id) FROM {changed} WHERE side = 'new'""")


def _compute_busy(con: duckdb.DuckDBPyConnection, contract: Contract, columns: str) -> None:
    """Add to `changed_TABLE` what becomes of `busy_keys`."""
    table, key = quote(contract.table), ", ".join(quote(name) for name in contract.key)
    names = ", ".join(quote(name) for name in contract.names)
    con.execute(f"CREATE OR REPLACE TEMP TABLE reordered_keys AS {_reordered_sql(contract)}")
    (reordered,) = one(con, "SELECT count(*) FROM reordered_keys")
    old, logged = "SELECT * FROM newest", ""
    if reordered:
        old = f"""
  SELECT * FROM newest ANTI JOIN reordered_keys USING ({key})
  UNION ALL SELECT rowid AS _id, {columns} FROM history.{table} SEMI JOIN reordered_keys USING ({key})"""
        logged = f"""
UNION ALL BY NAME
SELECT *, 1 AS _first_no FROM cdc.{table} SEMI JOIN reordered_keys USING ({key})"""
    con.execute(f"CREATE OR REPLACE TEMP TABLE old_versions AS {old}")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE rows_of_keys AS
SELECT {names}, NULL AS _before, {_PLACE}, valid_from AS _source_ts, NULL AS _snapshot, -1 AS _batch_id,
  version_no AS _first_no
FROM newest ANTI JOIN reordered_keys USING ({key})
UNION ALL BY NAME
SELECT *, getvariable('batch_id') AS _batch_id, 1 AS _first_no
FROM landed SEMI JOIN busy_keys USING ({key}) ANTI JOIN reordered_keys USING ({key})
{logged}""")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE versions AS
SELECT {columns} FROM ({_versions_sql(contract, _in_order_sql(contract))})""")
    con.execute(f"""
INSERT INTO {quote(f"changed_{contract.table}")}
SELECT 'old', * FROM old_versions
SEMI JOIN (SELECT {columns} FROM old_versions EXCEPT FROM versions) USING ({key}, version_no)
UNION ALL SELECT 'new', NULL, * FROM (FROM versions EXCEPT SELECT {columns} FROM old_versions)""")


def _reordered_sql(contract: Contract) -> str:
    """SQL for the known keys of which something in `landed` does not simply follow the newest version.

    It follows where it is a stream row of the same server and binlog name at a later place, later
    also than any snapshot: a snapshot row that repeats the state made no version, and is only in
    the log.
    """
    key = ", ".join(quote(name) for name in contract.key)
    place = (
        f"_op, _topic, _server_id, {BINLOG_BASE} AS base, {BINLOG_NUMBER} AS file_number, _binlog_pos, _row"
    )
    return f"""
WITH newest_places AS (SELECT {key}, {place} FROM newest),
coming_places AS (SELECT {key}, {place} FROM landed SEMI JOIN newest USING ({key}))
SELECT {key}
FROM newest_places n JOIN coming_places c USING ({key})
LEFT JOIN meta.snapshots s ON s.topic = c._topic AND s.base = c.base
GROUP BY {key}
HAVING NOT coalesce(bool_and(
    c._op <> 'r' AND c._topic = n._topic AND c.base = n.base
    AND (n._server_id = c._server_id OR (n._op = 'r' AND n._server_id = 0))
    AND (c.file_number, c._binlog_pos, c._row) > (n.file_number, n._binlog_pos, n._row)
    AND (s.file_number IS NULL OR (c.file_number, c._binlog_pos) > (s.file_number, s.pos))), false)
  OR count(DISTINCT c._server_id) > 1"""


def _derived(contract: Contract) -> list[str]:
    return ["business_date"] if contract.business_date else []


def _versions_sql(contract: Contract, numbered: str) -> str:
    """SQL for history's rows, from SQL for the changes with `valid_from`, `valid_to`, `version_no`."""
    names = ", ".join(quote(name) for name in contract.names)
    before = ", ".join(f"_before.{quote(name)} AS {quote(name)}" for name in contract.names)
    business_date = (
        f", business_date({quote(contract.business_date)}) AS business_date" if contract.business_date else ""
    )
    return f"""
WITH numbered AS ({numbered})
SELECT {names}, valid_from, valid_to, _op <> 'r' AS valid_from_is_exact, _op = 'd' AS is_deleted,
  CAST(version_no AS INTEGER) AS version_no, {_PLACE}{business_date}
FROM numbered
UNION ALL BY NAME
-- What the first change that was seen replaced: true until then, since when is not known.
SELECT *{business_date} FROM (
  SELECT {before}, {BEGINNING} AS valid_from, valid_from AS valid_to, false AS valid_from_is_exact,
    false AS is_deleted, 0 AS version_no, {_PLACE}
  FROM numbered WHERE version_no = 1 AND _op = 'u' AND _before IS NOT NULL)
"""


def _in_order_sql(contract: Contract) -> str:
    """SQL for the changes of all keys in `rows_of_keys`, put in order and numbered.

    The order of a key's changes is that of their positions wherever these can be compared, and
    Kafka's elsewhere: consecutive rows of one server and binlog name are an epoch, epochs follow
    in Kafka's order, and positions order an epoch. A snapshot's rows name no server; they belong
    to the epoch around them, and come before a stream row of the same position. A snapshot (but no
    incremental one) in an earlier binlog file than what went before is that of a server that
    replaced the last one: it begins an epoch.
    """
    key = ", ".join(quote(name) for name in contract.key)
    names = ", ".join(quote(name) for name in contract.names)
    arrival = "_batch_id, _partition, _offset"
    return f"""
WITH placed AS (
  SELECT *, {BINLOG_BASE} AS base, {BINLOG_NUMBER} AS file_number,
    nullif(_server_id, 0) AS server
  FROM rows_of_keys
),
named AS (
  SELECT *, coalesce(
      last_value(server IGNORE NULLS) OVER earlier,
      first_value(server IGNORE NULLS) OVER later, 0) AS epoch_server,
    _op = 'r' AND _snapshot <> 'incremental' AND file_number < max(file_number) OVER before
      AS is_of_another_server
  FROM placed
  WINDOW earlier AS (PARTITION BY {key}, base ORDER BY {arrival}
                     ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
         before AS (PARTITION BY {key}, base ORDER BY {arrival}
                    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
         later AS (PARTITION BY {key}, base ORDER BY {arrival}
                   ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING)
),
bounded AS (
  SELECT *, CASE WHEN coalesce(is_of_another_server, false) OR (epoch_server, base) IS DISTINCT FROM
      (lag(epoch_server) OVER arrived, lag(base) OVER arrived) THEN 1 ELSE 0 END AS begins
  FROM named WINDOW arrived AS (PARTITION BY {key} ORDER BY {arrival})
),
epochs AS (
  SELECT *, sum(begins) OVER (PARTITION BY {key} ORDER BY {arrival}
                              ROWS UNBOUNDED PRECEDING) AS epoch
  FROM bounded
),
ordered AS (
  SELECT *, row_number() OVER (PARTITION BY {key} ORDER BY epoch, file_number, _binlog_pos,
      CASE WHEN _op = 'r' THEN 0 ELSE 1 END, _row, {arrival}) AS turn
  FROM epochs
),
-- A snapshot row that repeats the state is no version.
news AS (
  SELECT * FROM ordered
  WINDOW turns AS (PARTITION BY {key} ORDER BY turn)
  QUALIFY _op <> 'r' OR turn = 1 OR lag(_op) OVER turns = 'd'
      OR row({names}) IS DISTINCT FROM lag(row({names})) OVER turns
),
timed AS (
  SELECT {names}, _before, {_PLACE},
    max(_source_ts) OVER (PARTITION BY {key} ORDER BY turn ROWS UNBOUNDED PRECEDING) AS valid_from,
    row_number() OVER (PARTITION BY {key} ORDER BY turn)
      + max(_first_no) OVER (PARTITION BY {key}) - 1 AS version_no
  FROM news
)
SELECT *, lead(valid_from, 1, {OPEN_END}) OVER (PARTITION BY {key} ORDER BY version_no) AS valid_to
FROM timed
"""
