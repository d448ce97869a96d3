"""The file that is about to be published: its tables, brought to what they are to hold."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from datetime import date

import duckdb

from bi_assets.outputs.generations import Stamp
from bi_assets.refresh import changed
from bi_assets.refresh.mart import Mart, MartColumn
from bi_assets.sql import literal, one, quote

_FEW_DAYS = 200


def bring_up_to_date(
    con: duckdb.DuckDBPyConnection,
    mart: Mart,
    source: str,
    columns: str,
    held: Stamp | None,
    wanted: Stamp | None,
) -> None:
    """Make the draft's table of a mart equal to a query of `columns` from `source`.

    `held` is the stamp of what the draft holds, `wanted` that of the source; none where it is not
    known. Rows that are as they should be are left alone.
    """
    if held is None or wanted is None or held.digest != wanted.digest:
        _write_anew(con, mart, source, columns)
        return
    if held == wanted:
        return
    days = changed.since(con, mart.name, held.version)
    if days == []:
        return
    if mart.partition and (days is None or _are_many(con, mart, source, days)):
        _write_anew(con, mart, source, columns)
    else:
        _write_differences(con, mart, source, columns, days)


def drop_others(con: duckdb.DuckDBPyConnection, marts: Collection[str]) -> None:
    """Drop the tables of marts that are no more."""
    for name in tables(con, "draft") - {"_meta", *marts}:
        con.execute(f"DROP TABLE draft.{quote(name)}")


def tables(con: duckdb.DuckDBPyConnection, database: str) -> set[str]:
    """Return the names of the tables of an attached database."""
    found = con.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = ?", [database])
    return {name for (name,) in found.fetchall()}


def published_columns(mart: Mart) -> str:
    """SQL of a mart's columns on their way out."""
    return ", ".join(_published(column) for column in mart.columns)


def digest(mart: Mart) -> str:
    """Return what a published table depends on beside its rows."""
    return hashlib.sha256(f"{mart.digest} {published_columns(mart)}".encode()).hexdigest()


def _published(column: MartColumn) -> str:
    """SQL of a column on its way out: the one place where money is rounded (metrics.md G3)."""
    if column.unit == "money":
        return f"CAST(round({column.name}, 2) AS DECIMAL(18, 2)) AS {column.name}"
    return column.name


def _write_anew(con: duckdb.DuckDBPyConnection, mart: Mart, source: str, columns: str) -> None:
    table = f"draft.{mart.name}"
    order = ", ".join(dict.fromkeys(filter(None, (mart.partition, *mart.grain))))
    con.execute(f"CREATE OR REPLACE TABLE {table} AS SELECT {columns} FROM {source} ORDER BY {order}")
    con.execute(f"COMMENT ON TABLE {table} IS {literal(mart.question)}")
    # A last good version may be from before a column was added.
    held = _columns(con, mart)
    for column in mart.columns:
        if column.name in held:
            unit = f" [{column.unit}]" if column.unit else ""
            con.execute(f"COMMENT ON COLUMN {table}.{column.name} IS {literal(column.meaning + unit)}")


def _write_differences(
    con: duckdb.DuckDBPyConnection, mart: Mart, source: str, columns: str, days: Sequence[date] | None
) -> None:
    """Delete the rows that are no more, insert those that are new: most of a day is as it was."""
    names = _columns(con, mart)
    listed, where = ", ".join(names), _where(mart, days)
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE difference AS
SELECT {listed}, count(*) FILTER (wanted) AS n_wanted, count(*) FILTER (NOT wanted) AS n_held
FROM (SELECT {listed}, true AS wanted FROM (SELECT {columns} FROM {source}{where})
      UNION ALL SELECT {listed}, false FROM draft.{mart.name}{where})
GROUP BY {listed} HAVING n_wanted <> n_held""")
    same = " AND ".join(f"t.{name} IS NOT DISTINCT FROM d.{name}" for name in names)
    con.execute(f"DELETE FROM draft.{mart.name} t USING difference d WHERE d.n_held > 0 AND {same}")
    con.execute(f"INSERT INTO draft.{mart.name} SELECT {listed} FROM difference, range(n_wanted)")
    con.execute("DROP TABLE difference")


def _columns(con: duckdb.DuckDBPyConnection, mart: Mart) -> list[str]:
    return [row[0] for row in con.execute(f"DESCRIBE draft.{mart.name}").fetchall()]


def _are_many(con: duckdb.DuckDBPyConnection, mart: Mart, source: str, days: Sequence[date]) -> bool:
    """Tell whether days have most of a mart's rows: to compare them would cost more than to write."""
    of_days, all_ = one(
        con,
        f"SELECT (SELECT count(*) FROM {source}{_where(mart, days)}), (SELECT count(*) FROM {source})",
    )
    return bool(of_days * 2 > all_)


def _where(mart: Mart, days: Sequence[date] | None) -> str:
    """SQL that keeps these days."""
    if days is None:
        return ""
    values = ", ".join(f"DATE '{day}'" for day in days)
    if len(days) <= _FEW_DAYS:
        # Constants reach the scan, and skip what lies outside.
        return f" WHERE {mart.partition} IN ({values})"
    return (
        f" WHERE {mart.partition} BETWEEN DATE '{min(days)}' AND DATE '{max(days)}' "
        f"AND {mart.partition} IN (SELECT UNNEST([{values}]))"
    )
