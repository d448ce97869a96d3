"""What was true when: slowly changing dimensions (type 2) over the change logs.

A version is a change-log row and how long it held. That is kept with the row itself, in
`_valid_from`, `_valid_to` and `_version_no` of `cdc.TABLE`; `history.TABLE` and `state.TABLE` are
views of every version and of the present. The versions of a key are a pure function of its
change-log rows, so that they are the same however the rows arrived; only the keys that a batch
touches are computed.
"""

from __future__ import annotations

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.landing.change_log import (
    BINLOG_BASE,
    BINLOG_NUMBER,
    BUSINESS_DATE,
    VALIDITY,
    before_value,
    stamp,
)
from bi_assets.landing.columns import stored_type
from bi_assets.landing.debezium_json import POSITION
from bi_assets.landing.wall_time import business_date
from bi_assets.sql import one, quote

BEGINNING = "TIMESTAMP '0001-01-01 00:00:00'"
"""`valid_from` of a value that is known only as what an update replaced."""
OPEN_END = "TIMESTAMP '9999-12-31 00:00:00'"
"""`valid_to` of the newest version."""

_PLACE = "_op, _server_id, _binlog_file, _binlog_pos, _row, _topic, _partition, _offset"

DERIVED_COLUMNS = (
    "valid_from",
    "valid_to",
    "valid_from_is_exact",
    "is_deleted",
    "version_no",
    "is_first",
    *_PLACE.split(", "),
    "rekeyed_from",
    "rekeyed_to",
    "business_date",
)
"""What history adds to a contract's columns (`business_date` where the contract names one).

`rekeyed_from`: the key that the row had until its primary key was changed, `rekeyed_to`: the key under
which it goes on, both as JSON.
"""
_OTHER_KEY = """CASE WHEN _op <> 'd' THEN _other_key END AS rekeyed_from,
  CASE WHEN _op = 'd' THEN _other_key END AS rekeyed_to"""


def create_sql(contract: Contract, pseudonym_key: str | None, timezone: str) -> list[str]:
    """Return the statements that make `history.TABLE` and `state.TABLE`; the log is there already."""
    table = quote(contract.table)
    day = f", {BUSINESS_DATE} AS business_date" if contract.business_date else ""
    return [
        f"CREATE OR REPLACE VIEW history.{table} AS "
        + _history_sql(contract, f"cdc.{table}", pseudonym_key, timezone),
        f"CREATE OR REPLACE VIEW state.{table} AS SELECT {_names(contract.names)}{day} FROM cdc.{table} "
        f"WHERE _valid_to = {OPEN_END} AND _op <> 'd'",
    ]


def append(
    con: duckdb.DuckDBPyConnection, contract: Contract, pseudonym_key: str | None, timezone: str
) -> None:
    """Append `landed` to the change log, and bring the versions of its keys up to date.

    What it costs follows the change. A key that is new and comes once, as most do, has one version
    and nothing to be put in order. A known key whose changes all follow its newest version is
    computed on from there; only where something arrived out of order is its whole log read again.

    Leaves the temporary view `changed_TABLE`: the versions that came (`side` = 'new') and went
    ('old'), which is all that anything downstream may have to look at again. Parameters of the
    batch are session variables.
    """
    table, key = quote(contract.table), _names(contract.key)
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE newest AS
SELECT rowid AS _id, * FROM cdc.{table} SEMI JOIN landed USING ({key}) WHERE _valid_to = {OPEN_END}""")
    busy_keys = quote(f"busy_keys_{contract.table}")
    (busy,) = one(
        con,
        f"""
CREATE OR REPLACE TEMP TABLE {busy_keys} AS
SELECT {key} FROM landed GROUP BY ALL HAVING count(*) > 1 UNION SELECT {key} FROM newest""",
    )
    fresh = f"ANTI JOIN {busy_keys} USING ({key})" if busy else ""
    con.execute(f"""
INSERT INTO cdc.{table} BY NAME
SELECT *, {stamp(contract)}, _source_ts AS _valid_from, {OPEN_END} AS _valid_to, 1 AS _version_no
FROM landed {fresh}""")
    changed = f"""
SELECT 'new' AS side, * FROM ({
        _history_sql(
            contract,
            f'''
  (SELECT * FROM cdc.{table} {fresh} WHERE _batch_id = getvariable('batch_id'))''',
            pseudonym_key,
            timezone,
        )
    })"""
    if busy:
        _append_busy(con, contract)
        before = _history_sql(contract, "rows_before", pseudonym_key, timezone)
        after = _history_sql(contract, "rows_after", pseudonym_key, timezone)
        busy_changes = quote(f"busy_changes_{contract.table}")
        con.execute(f"""
CREATE OR REPLACE TEMP TABLE {busy_changes} AS
SELECT 'old' AS side, * FROM (({before}) EXCEPT ({after}))
UNION ALL SELECT 'new' AS side, * FROM (({after}) EXCEPT ({before}))""")
        changed += f" UNION ALL FROM {busy_changes}"
    con.execute(f"CREATE OR REPLACE TEMP VIEW {quote(f'changed_{contract.table}')} AS {changed}")


def upgrade(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """Bring a file of the time when history was tables of its own into today's form, inside a transaction.

    Call it once the log has its columns, and before the views are made.
    """
    table = quote(contract.table)
    (is_old,) = one(
        con,
        "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'history' AND table_name = ?",
        [contract.table],
    )
    if not is_old:
        return
    con.execute(f"DROP TABLE history.{table}")
    con.execute(f"ALTER TABLE cdc.{table} ALTER _before TYPE VARCHAR USING CAST(to_json(_before) AS VARCHAR)")
    if contract.business_date:
        day = f"business_date({quote(contract.business_date)})"
        con.execute(f"UPDATE cdc.{table} SET {BUSINESS_DATE} = {day}")
    rebuild(con, contract)


def rebuild(con: duckdb.DuckDBPyConnection, contract: Contract, only: str = "") -> None:
    """Compute versions from the change log again: of every key, or `only` of those that SQL joins."""
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE rows_before AS
SELECT rowid AS _id, *, _source_ts AS _at, 1 AS _first_no FROM cdc.{quote(contract.table)} {only}""")
    _put_in_order(con, contract, one_epoch=False)
    _move(con, contract)


def _append_busy(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """Append the rows of keys that are known or come more than once; move the bounds of old ones.

    Leaves `rows_before` and `rows_after`: the rows whose validity is computed, as it was and is.
    """
    table, key = quote(contract.table), _names(contract.key)
    busy_keys = quote(f"busy_keys_{contract.table}")
    (reordered,) = one(con, f"CREATE OR REPLACE TEMP TABLE reordered_keys AS {_reordered_sql(contract)}")
    # A known key goes on from its newest version, which has its number and the time reached so far.
    before = f"""
SELECT *, _valid_from AS _at, _version_no AS _first_no FROM newest ANTI JOIN reordered_keys USING ({key})"""
    if reordered:
        before += f"""
UNION ALL SELECT rowid AS _id, *, _source_ts AS _at, 1 AS _first_no
FROM cdc.{table} SEMI JOIN reordered_keys USING ({key})"""
    con.execute(f"CREATE OR REPLACE TEMP TABLE rows_before AS {before}")
    con.execute(f"""
INSERT INTO rows_before BY NAME
SELECT *, {stamp(contract)}, _source_ts AS _at, 1 AS _first_no
FROM landed SEMI JOIN {busy_keys} USING ({key})""")
    _put_in_order(con, contract, one_epoch=not reordered and _is_one_epoch(con))
    _move(con, contract)
    con.execute(f"""
INSERT INTO cdc.{table} BY NAME SELECT * EXCLUDE (_id, _at, _first_no) FROM rows_after WHERE _id IS NULL""")


def _move(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """Give the rows that were there already the validity that they now have."""
    columns = VALIDITY.keys()
    con.execute(f"""
UPDATE cdc.{quote(contract.table)} c SET {", ".join(f"{name} = a.{name}" for name in columns)}
FROM rows_after a JOIN rows_before b USING (_id)
WHERE c.rowid = _id AND ({", ".join(f"a.{name}" for name in columns)}) IS DISTINCT FROM
  ({", ".join(f"b.{name}" for name in columns)})""")


def _names(columns: tuple[str, ...]) -> str:
    return ", ".join(map(quote, columns))


def _history_sql(contract: Contract, rows: str, pseudonym_key: str | None, timezone: str) -> str:
    """SQL for history's rows from change-log rows with their validity."""
    date = contract.business_date
    before = ", ".join(
        f"{before_value(c.name, stored_type(c, pseudonym_key))} AS {quote(c.name)}" for c in contract.columns
    )
    day = f", {BUSINESS_DATE} AS business_date" if date else ""
    day_before = f", {business_date(quote(date), timezone)} AS business_date" if date else ""
    return f"""
SELECT {_names(contract.names)}, _valid_from AS valid_from, _valid_to AS valid_to,
  _op <> 'r' AND _snapshot <> 'sweep' AS valid_from_is_exact, _op = 'd' AS is_deleted,
  _version_no AS version_no,
  _version_no = 1 AND (_op <> 'u' OR _before IS NULL) AS is_first, {_PLACE},
  {_OTHER_KEY}{day}
FROM {rows} WHERE _version_no IS NOT NULL
UNION ALL
-- What the first change that was seen replaced: true until then, since when is not known.
SELECT *{day_before} FROM (
  SELECT {before}, {BEGINNING}, _valid_from, false, false, 0, true, {_PLACE},
    NULL, NULL
  FROM {rows} WHERE _version_no = 1 AND _op = 'u' AND _before IS NOT NULL)"""


def _reordered_sql(contract: Contract) -> str:
    """SQL for the known keys of which something in `landed` does not simply follow the newest version.

    It follows where it is a stream row of the same server and binlog name at a later place, later
    also than any snapshot: a snapshot row that repeats the state made no version, and is only in
    the log.
    """
    key = _names(contract.key)
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


def _is_one_epoch(con: duckdb.DuckDBPyConnection) -> bool:
    """Tell whether positions alone order `rows_before`: one server, one binlog name, no new snapshot."""
    (is_one,) = one(
        con,
        f"""
SELECT count(DISTINCT {BINLOG_BASE}) <= 1 AND count(DISTINCT nullif(_server_id, 0)) <= 1
  AND coalesce(bool_and(is_known OR _op <> 'r'), true)
FROM (SELECT DISTINCT _binlog_file, _server_id, _op, _id IS NOT NULL AS is_known FROM rows_before)""",
    )
    return bool(is_one)


def _put_in_order(con: duckdb.DuckDBPyConnection, contract: Contract, *, one_epoch: bool) -> None:
    """Make `rows_after`: the rows of `rows_before`, with the validity that their order gives them.

    The order of a key's changes is that of their positions wherever these can be compared, and
    Kafka's elsewhere: consecutive rows of one server and binlog name are an epoch, epochs follow
    in Kafka's order, and positions order an epoch. A snapshot's rows name no server; they belong
    to the epoch around them, and come before a stream row of the same position. A snapshot (but no
    incremental one) in an earlier binlog file than what went before is that of a server that
    replaced the last one: it begins an epoch. With `one_epoch` that is known to be all.
    """
    key, names = _names(contract.key), _names(contract.names)
    # The deletes of truncates have no offset of their own: without their place, a tie has any order.
    arrival = "_batch_id, _partition, _offset, file_number, _binlog_pos"
    columns = ", ".join([names, "_before", *POSITION, "_landed_at", "_batch_id", "_id", "_at", "_first_no"])
    if contract.business_date:
        columns += f", {BUSINESS_DATE}"
    several_epochs = f"""
named AS (
  SELECT *, coalesce(
      last_value(server IGNORE NULLS) OVER earlier,
      first_value(server IGNORE NULLS) OVER later, 0) AS epoch_server,
    _op = 'r' AND _snapshot <> 'incremental' AND file_number < max(file_number)
      FILTER (_snapshot <> 'truncate') OVER before  -- which come through any partition
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
),"""
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE rows_after AS
WITH placed AS (
  SELECT *, {BINLOG_BASE} AS base, {BINLOG_NUMBER} AS file_number,
    nullif(_server_id, 0) AS server
  FROM rows_before
),
{"epochs AS (SELECT *, 0 AS epoch FROM placed)," if one_epoch else several_epochs}
ordered AS (
  SELECT *, row_number() OVER (PARTITION BY {key} ORDER BY epoch, file_number, _binlog_pos,
      CASE WHEN _op = 'r' THEN 0 ELSE 1 END, _row,
      CASE WHEN _snapshot = 'truncate' THEN -_batch_id END, {arrival}) AS turn
  FROM epochs
),
-- A snapshot row that repeats the state is no version, nor is a truncate of what is deleted: where
-- something arrives late, a truncate deletes a row once more, as it was then, and that counts.
news AS (
  SELECT *, CASE WHEN _snapshot = 'truncate' THEN coalesce(lag(_op) OVER turns <> 'd', true)
      ELSE _op <> 'r' OR turn = 1 OR lag(_op) OVER turns = 'd'
        OR row({names}) IS DISTINCT FROM lag(row({names})) OVER turns END AS is_version
  FROM ordered
  WINDOW turns AS (PARTITION BY {key} ORDER BY turn)
),
timed AS (
  SELECT *,
    CASE WHEN is_version THEN max(_at) FILTER (is_version) OVER so_far END AS from_then,
    CASE WHEN is_version THEN count(*) FILTER (is_version) OVER so_far
      + max(_first_no) OVER (PARTITION BY {key}) - 1 END AS number
  FROM news
  WINDOW so_far AS (PARTITION BY {key} ORDER BY turn ROWS UNBOUNDED PRECEDING)
)
SELECT {columns}, from_then AS _valid_from,
  CASE WHEN is_version THEN coalesce(min(from_then) OVER (PARTITION BY {key} ORDER BY turn
    ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), {OPEN_END}) END AS _valid_to,
  CAST(number AS INTEGER) AS _version_no
FROM timed""")
