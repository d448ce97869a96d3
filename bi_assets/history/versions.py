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
from bi_assets.sql import quote

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
    "_binlog_file": "VARCHAR",
    "_binlog_pos": "BIGINT",
    "_row": "BIGINT",
    "_topic": "VARCHAR",
    "_partition": "INTEGER",
    "_offset": "BIGINT",
}

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

    Leaves the temporary table `changed_TABLE`: the versions that came (`side` = 'new') and went
    ('old'), which is all that anything downstream may have to look at again.
    """
    table, key = quote(contract.table), ", ".join(quote(name) for name in contract.key)
    columns = ", ".join(quote(name) for name in (*contract.names, *_VERSION, *_derived(contract)))
    changed = quote(f"changed_{contract.table}")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE known_keys AS
SELECT DISTINCT {key} FROM history.{table} SEMI JOIN landed USING ({key})""")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE rows_of_keys AS
SELECT * FROM cdc.{table} SEMI JOIN known_keys USING ({key})
UNION ALL BY NAME
SELECT *, getvariable('batch_id') AS _batch_id FROM landed ANTI JOIN known_keys USING ({key})""")
    con.execute(f"CREATE OR REPLACE TEMP TABLE versions AS {_versions_sql(contract)}")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE old_versions AS
SELECT {columns} FROM history.{table} SEMI JOIN known_keys USING ({key})""")
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE {changed} AS
SELECT 'old' AS side, * FROM (FROM old_versions EXCEPT FROM versions)
UNION ALL
SELECT 'new' AS side, * FROM (
  (FROM versions ANTI JOIN known_keys USING ({key}))
  UNION ALL (FROM versions SEMI JOIN known_keys USING ({key}) EXCEPT FROM old_versions))""")
    at = ("_topic", "_partition", "_offset", "version_no")  # names a version
    same = " AND ".join(f"h.{name} IS NOT DISTINCT FROM c.{name}" for name in at)
    keys = " AND ".join(f"h.{quote(name)} = c.{quote(name)}" for name in contract.key)
    con.execute(f"""
DELETE FROM history.{table} h USING (SELECT * FROM {changed} WHERE side = 'old') c
WHERE {keys} AND {same} AND h.valid_from = c.valid_from AND h.valid_to = c.valid_to""")
    con.execute(f"""
INSERT INTO history.{table} BY NAME
SELECT * EXCLUDE (side) FROM {changed} WHERE side = 'new'""")


def _derived(contract: Contract) -> list[str]:
    return ["business_date"] if contract.business_date else []


def _versions_sql(contract: Contract) -> str:
    """SQL for the versions of all keys in `rows_of_keys`.

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
    before = ", ".join(f"_before.{quote(name)} AS {quote(name)}" for name in contract.names)
    business_date = (
        f", business_date({quote(contract.business_date)}) AS business_date" if contract.business_date else ""
    )
    place = "_op, _binlog_file, _binlog_pos, _row, _topic, _partition, _offset"
    return f"""
WITH repeated AS (
  SELECT {key} FROM rows_of_keys GROUP BY ALL HAVING count(*) > 1
),
placed AS (
  SELECT *, {BINLOG_BASE} AS base, {BINLOG_NUMBER} AS file_number,
    nullif(_server_id, 0) AS server
  FROM rows_of_keys SEMI JOIN repeated USING ({key})
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
  SELECT {names}, _before, {place},
    max(_source_ts) OVER (PARTITION BY {key} ORDER BY turn ROWS UNBOUNDED PRECEDING) AS valid_from,
    row_number() OVER (PARTITION BY {key} ORDER BY turn) AS version_no
  FROM news
),
numbered AS (
  SELECT *, lead(valid_from, 1, {OPEN_END}) OVER (PARTITION BY {key} ORDER BY version_no) AS valid_to
  FROM timed
  UNION ALL BY NAME
  SELECT {names}, _before, {place}, _source_ts AS valid_from, 1 AS version_no, {OPEN_END} AS valid_to
  FROM rows_of_keys ANTI JOIN repeated USING ({key})
)
SELECT {names}, valid_from, valid_to, _op <> 'r' AS valid_from_is_exact, _op = 'd' AS is_deleted,
  CAST(version_no AS INTEGER) AS version_no, {place}{business_date}
FROM numbered
UNION ALL
-- What the first change that was seen replaced: true until then, since when is not known.
SELECT *{business_date} FROM (
  SELECT {before}, {BEGINNING} AS valid_from, valid_from AS valid_to, false AS valid_from_is_exact,
    false AS is_deleted, 0 AS version_no, {place}
  FROM numbered WHERE version_no = 1 AND _op = 'u' AND _before IS NOT NULL)
"""
