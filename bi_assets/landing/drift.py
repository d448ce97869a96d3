"""Schema drift: what the shop's rows have that no contract names, and what they no longer have.

An unknown column is never stored. A contract says with `schema_changes` what a change is: `report`
(a problem in `status`), `accept` (a note), or `quarantine`: rows that do not have exactly the contract's
columns are set aside until it is changed. A required column that is missing is a fault in any case.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from bi_assets.contracts.contract import Contract
from bi_assets.sql import literal

SCHEMA = [
    # kind: unknown to the contract, or missing though it was there; from_start: since the first batch.
    """CREATE TABLE IF NOT EXISTS meta.drift (
        table_name VARCHAR, column_name VARCHAR, events BIGINT, first_seen TIMESTAMP,
        last_seen TIMESTAMP)""",
    "ALTER TABLE meta.drift ADD COLUMN IF NOT EXISTS kind VARCHAR DEFAULT 'unknown'",
    "ALTER TABLE meta.drift ADD COLUMN IF NOT EXISTS from_start BOOLEAN DEFAULT true",
    # The contract's columns that a table's rows have had.
    "CREATE TABLE IF NOT EXISTS meta.shape (table_name VARCHAR, column_name VARCHAR)",
    "DROP TABLE IF EXISTS meta.seen_columns",
]
_EVERY_ROW_UP_TO = 1000
_SAMPLE = """"offset" % 256 = 0
  OR (partition, "offset") IN (SELECT (partition, max("offset")) FROM messages GROUP BY partition)"""
_IMAGES = """
SELECT *, CASE WHEN json_extract_string(json, '$.op') = 'd' THEN '$.before' ELSE '$.after' END AS path
FROM (SELECT partition, "offset", TRY_CAST(try(decode(CAST(value AS BLOB))) AS JSON) AS json
      FROM messages WHERE {which})"""
_KNOWN = """
SELECT 'known', column_name, 0 FROM meta.shape WHERE table_name = {table}
UNION ALL SELECT 'gone', column_name, 0 FROM meta.drift WHERE table_name = {table} AND kind = 'missing'"""


def record(con: duckdb.DuckDBPyConnection, contract: Contract, messages: pa.Table) -> None:
    """Count the rows of a topic that have columns which the contract does not know, or lack some.

    Listing a row's columns costs as much as decoding it, so a large batch is looked at in every
    256th message and the last of each partition; where that shows anything, in every one.
    """
    con.register("messages", messages)
    is_small = messages.num_rows <= _EVERY_ROW_UP_TO
    seen = _columns(con, contract, "true" if is_small else _SAMPLE)
    drifts = _drifts(contract, seen)
    if drifts and not is_small:
        seen = _columns(con, contract, "true")
        drifts = _drifts(contract, seen)
    con.unregister("messages")
    _note(con, contract, seen, drifts)


def note(con: duckdb.DuckDBPyConnection, contract: Contract, rows: int, fields: Mapping[str, int]) -> None:
    """Count rows by the columns they have, and by those they lack, where their form's decoder knows them.

    `fields` counts, of so many `rows`, those that have each column.
    """
    table = literal(contract.table)
    seen = _seen(con.execute(_KNOWN.format(table=table)).fetchall(), rows, dict(fields))
    _note(con, contract, seen, _drifts(contract, seen))


def _note(
    con: duckdb.DuckDBPyConnection, contract: Contract, seen: _Seen, drifts: Mapping[str, tuple[str, int]]
) -> None:
    for name, (kind, events) in drifts.items():
        con.execute(
            "MERGE INTO meta.drift d USING (SELECT $table AS t, $name AS c, $kind AS k) s "
            "ON d.table_name = s.t AND d.column_name = s.c AND d.kind = s.k "
            "WHEN MATCHED THEN UPDATE SET events = d.events + $events, "
            "  last_seen = getvariable('landed_at') "
            "WHEN NOT MATCHED THEN INSERT VALUES (s.t, s.c, $events, getvariable('landed_at'), "
            "  getvariable('landed_at'), s.k, $from_start)",
            {
                "table": contract.table,
                "name": name,
                "kind": kind,
                "events": events,
                "from_start": not seen.known,
            },
        )
    if new := sorted(seen.found.keys() & set(contract.names) - seen.known):
        con.execute("INSERT INTO meta.shape SELECT ?, UNNEST(?)", [contract.table, new])
    if seen.rows and (back := sorted(seen.gone - drifts.keys())):
        # Older rows were read again, or the column came back.
        con.execute(
            "DELETE FROM meta.drift "
            "WHERE table_name = ? AND kind = 'missing' AND list_contains(?, column_name)",
            [contract.table, back],
        )


def refuse_part(con: duckdb.DuckDBPyConnection, contract: Contract, fields: Collection[str]) -> None:
    """Do as `refuse` with the rows of `part`, which all have these columns."""
    if set(fields) - contract.fields or set(contract.names) - set(fields):
        names = "[" + ", ".join(map(literal, fields)) + "]"
        _refuse(con, contract, f'SELECT partition, "offset", {names} AS names FROM part')


def refuse(con: duckdb.DuckDBPyConnection, contract: Contract, messages: pa.Table) -> None:
    """Give the rows of `decoded` a cause that do not have exactly the contract's columns.

    Excluded columns may be there or not.
    """
    con.register("messages", messages)
    _refuse(
        con,
        contract,
        'SELECT partition, "offset", json_keys(json, path) AS names '
        f"FROM ({_IMAGES.format(which='true')}) WHERE json_type(json, path) = 'OBJECT'",
    )
    con.unregister("messages")


def refuse_rows(con: duckdb.DuckDBPyConnection, contract: Contract, beside: str) -> None:
    """Do as `refuse` with the rows of `part`, whose `text` is a row alone.

    What begins with `beside` the connector has put there.
    """
    _refuse(
        con,
        contract,
        'SELECT partition, "offset", [n FOR n IN json_keys(TRY_CAST(text AS JSON)) '
        f"IF NOT starts_with(n, {literal(beside)})] AS names FROM part",
    )


def _refuse(con: duckdb.DuckDBPyConnection, contract: Contract, rows: str) -> None:
    fields = "[" + ", ".join(map(literal, sorted(contract.fields))) + "]"
    names = "[" + ", ".join(map(literal, sorted(contract.names))) + "]"
    con.execute(f"""
UPDATE decoded SET _cause = 'the shape of the row has changed: ' || concat_ws('; ',
  CASE WHEN unknown <> [] THEN 'no contract names ' || array_to_string(unknown, ', ') END,
  CASE WHEN missing <> [] THEN 'there is no ' || array_to_string(missing, ', ') END)
FROM (
  SELECT partition, "offset", list_sort([n FOR n IN names IF NOT list_contains({fields}, n)]) AS unknown,
    [n FOR n IN {names} IF NOT list_contains(names, n)] AS missing
  FROM ({rows})
) m
WHERE _cause IS NULL AND _partition = m.partition AND _offset = m."offset"
  AND (unknown <> [] OR missing <> [])""")


@dataclass(frozen=True)
class _Seen:
    """The columns of `rows` rows: how many have each; which the table had before, and which were missing."""

    rows: int
    found: dict[str, int]
    known: set[str]
    gone: set[str]


def _drifts(contract: Contract, seen: _Seen) -> dict[str, tuple[str, int]]:
    """Column name -> kind of drift, and in how many rows."""
    unknown = {name: ("unknown", seen.found[name]) for name in seen.found.keys() - contract.fields}
    missing = {
        name: ("missing", seen.rows - seen.found.get(name, 0))
        for name in seen.known & set(contract.names)
        if seen.found.get(name, 0) < seen.rows
    }
    return {**unknown, **missing}


def _columns(con: duckdb.DuckDBPyConnection, contract: Contract, which: str) -> _Seen:
    """Look at the row images of the messages of `which`."""
    table = literal(contract.table)
    told = con.execute(f"""
WITH names AS (
  SELECT json_keys(json, path) AS names FROM ({_IMAGES.format(which=which)})
  WHERE json_type(json, path) = 'OBJECT'
)
SELECT 'rows', NULL, count(*) FROM names
UNION ALL SELECT 'found', name, count(*)
FROM (SELECT UNNEST(list_distinct(names)) AS name FROM names) GROUP BY name
UNION ALL {_KNOWN.format(table=table)}""").fetchall()
    rows = sum(n for what, _, n in told if what == "rows")
    return _seen(told, rows, {name: n for what, name, n in told if what == "found"})


def _seen(told: list[tuple[str, str, int]], rows: int, found: dict[str, int]) -> _Seen:
    return _Seen(
        rows=rows,
        found=found,
        known={name for what, name, _ in told if what == "known"},
        gone={name for what, name, _ in told if what == "gone"},
    )
