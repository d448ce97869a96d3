"""The file that is about to be published: its tables, brought to what they are to hold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from bi_assets.outputs.generations import Stamp
from bi_assets.refresh import changed
from bi_assets.refresh.mart import Mart, MartColumn
from bi_assets.sql import literal, one

_FEW_DAYS = 200


@dataclass(frozen=True)
class Source:
    """Where the draft gets a mart from: a query of `columns` from `table`, and the stamp of what it gives.

    The stamp is none where it is not known.
    """

    table: str
    columns: str
    stamp: Stamp | None


def from_core(mart: Mart, version: int) -> Source:
    """Return a mart as the core database has it at a version, on its way out."""
    columns = ", ".join(_published(column) for column in mart.columns)
    digest = hashlib.sha256(f"{mart.digest} {columns}".encode()).hexdigest()
    return Source(mart.table, columns, Stamp(version, digest))


def write(
    con: duckdb.DuckDBPyConnection,
    marts: Mapping[str, Mart],
    sources: Mapping[str, Source],
    held: Mapping[str, Stamp],
) -> None:
    """Make the draft's tables equal to their sources. Inside a transaction.

    `held` are the stamps of what the draft holds. Rows that are as they should be are left alone.
    """
    changes = changed.since(con, {name: stamp.version for name, stamp in held.items()})
    for name, source in sources.items():
        mart, has = marts[name], held.get(name)
        if has is None or source.stamp is None or has.digest != source.stamp.digest:
            _write_anew(con, mart, source)
        elif has != source.stamp and name in changes:
            days = changes[name]
            if mart.partition and (days is None or _are_many(con, mart, source, days)):
                _write_anew(con, mart, source)
            else:
                _write_differences(con, mart, source, days)


def _published(column: MartColumn) -> str:
    """SQL of a column on its way out: the one place where money is rounded (metrics.md G3)."""
    if column.unit == "money":
        return f"CAST(round({column.name}, 2) AS DECIMAL(18, 2)) AS {column.name}"
    return column.name


def _write_anew(con: duckdb.DuckDBPyConnection, mart: Mart, source: Source) -> None:
    table = f"draft.{mart.name}"
    order = ", ".join(dict.fromkeys(filter(None, (mart.partition, *mart.grain))))
    con.execute(
        f"CREATE OR REPLACE TABLE {table} AS SELECT {source.columns} FROM {source.table} ORDER BY {order}"
    )
    con.execute(f"COMMENT ON TABLE {table} IS {literal(mart.question)}")
    # A last good version may be from before a column was added.
    held = _columns(con, mart)
    for column in mart.columns:
        if column.name in held:
            unit = f" [{column.unit}]" if column.unit else ""
            con.execute(f"COMMENT ON COLUMN {table}.{column.name} IS {literal(column.meaning + unit)}")


def _write_differences(
    con: duckdb.DuckDBPyConnection, mart: Mart, source: Source, days: Sequence[date] | None
) -> None:
    """Delete the rows that are no more, insert those that are new: most of a day is as it was."""
    names = _columns(con, mart)
    listed, where = ", ".join(names), mart.only(days)
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE difference AS
SELECT {listed}, count(*) FILTER (wanted) AS n_wanted, count(*) FILTER (NOT wanted) AS n_held
FROM (SELECT {listed}, true AS wanted FROM (SELECT {source.columns} FROM {source.table}{where})
      UNION ALL SELECT {listed}, false FROM draft.{mart.name}{where})
GROUP BY {listed} HAVING n_wanted <> n_held""")
    same = " AND ".join(f"t.{name} IS NOT DISTINCT FROM d.{name}" for name in names)
    # The days keep the search away from the other rows.
    con.execute(f"""
DELETE FROM draft.{mart.name} WHERE rowid IN (
  SELECT t.held_row FROM (SELECT rowid AS held_row, {listed} FROM draft.{mart.name}{where}) t
  JOIN difference d ON {same} WHERE d.n_held > 0)""")
    con.execute(f"INSERT INTO draft.{mart.name} SELECT {listed} FROM difference, range(n_wanted)")
    con.execute("DROP TABLE difference")


def _columns(con: duckdb.DuckDBPyConnection, mart: Mart) -> list[str]:
    return [row[0] for row in con.execute(f"DESCRIBE draft.{mart.name}").fetchall()]


def _are_many(con: duckdb.DuckDBPyConnection, mart: Mart, source: Source, days: Sequence[date]) -> bool:
    """Tell whether days have most of a mart's rows: to compare them would cost more than to write."""
    if len(days) <= _FEW_DAYS:
        return False
    of_days, all_ = one(
        con,
        f"SELECT (SELECT count(*) FROM {source.table}{mart.only(days)}), "
        f"(SELECT count(*) FROM {source.table})",
    )
    return bool(of_days * 2 > all_)
