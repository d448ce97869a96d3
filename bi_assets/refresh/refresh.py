"""Refresh: delete the partitions that need it, insert them anew, check them.

What needs it is written down when it is touched (`meta.touched`, `meta.versions`), and struck out
when every mart has been computed, so that a crash leaves the work to the next run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import duckdb

from bi_assets.history.touched import AS_OF, set_version
from bi_assets.landing.offsets import progress
from bi_assets.refresh import changed
from bi_assets.refresh.mart import Check, Context, Mart
from bi_assets.sql import ENVIRONMENT, one, transaction

SCHEMA = [
    # What each mart was computed from; none for a mart that was never computed.
    "CREATE TABLE IF NOT EXISTS meta.marts (name VARCHAR, digest VARCHAR, version BIGINT)",
    """CREATE TABLE IF NOT EXISTS meta.checks (
        mart VARCHAR, name VARCHAR, severity VARCHAR, breaches BIGINT, checked_at TIMESTAMP,
        reported BOOLEAN)""",
    # Refreshed partitions that Dagster has not been told of (day is null for a mart without).
    """CREATE TABLE IF NOT EXISTS meta.unreported (
        mart VARCHAR, day DATE, rows BIGINT, refreshed_at TIMESTAMP, cause VARCHAR)""",
]
COMPUTES = Check("computes", "The mart can be computed from its inputs.", breaches="")
"""A check that every mart has; it fails where the computation does."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CheckResult:
    """Outcome of a check: how many rows break it."""

    check: Check
    breaches: int


@dataclass(frozen=True)
class Refreshed:
    """A mart that was computed again: `days` is None where it was computed as a whole."""

    mart: Mart
    rows: int
    days: tuple[date, ...] | None
    checks: tuple[CheckResult, ...]


def create_tables(con: duckdb.DuckDBPyConnection, marts: Mapping[str, Mart]) -> None:
    """Make the tables of marts that are new or whose file changed; they are computed as a whole."""
    known = dict(con.execute("SELECT name, digest FROM meta.marts").fetchall())
    for gone in set(known) - set(marts):
        con.execute(f"DROP TABLE IF EXISTS marts.{gone}")
        con.execute("DELETE FROM meta.marts WHERE name = ?", [gone])
        con.execute("DELETE FROM meta.checks WHERE mart = ?", [gone])
        con.execute("DELETE FROM meta.changed WHERE mart = ?", [gone])
    for mart in marts.values():
        if known.get(mart.name) == mart.digest:
            continue
        con.execute(f"DROP TABLE IF EXISTS {mart.table}")
        create_table(con, mart)
        con.execute("DELETE FROM meta.checks WHERE mart = ?", [mart.name])
        con.execute("DELETE FROM meta.marts WHERE name = ?", [mart.name])
        con.execute("INSERT INTO meta.marts VALUES (?, ?, NULL)", [mart.name, mart.digest])


def create_table(con: duckdb.DuckDBPyConnection, mart: Mart) -> None:
    """Make the empty table of a mart."""
    if mart.sql:
        con.execute(f"CREATE TABLE {mart.table} AS SELECT * FROM ({mart.sql}\n) LIMIT 0")
    else:
        columns = ", ".join(f"{column.name} {column.type}" for column in mart.columns)
        con.execute(f"CREATE TABLE {mart.table} ({columns})")


def refresh(con: duckdb.DuckDBPyConnection, marts: Mapping[str, Mart], *, scheduled: bool) -> list[Refreshed]:
    """Compute what has been touched, each mart in a transaction of its own.

    A mart that has a schedule is computed the first time, and then only where `scheduled`. One that
    fails on the data fails its check `computes`, keeps what it held, and is computed as a whole the
    next time, and then those that read it; the others go on. Call it outside a transaction.
    """
    touched: dict[str, list[date]] = {}
    for kind, day in con.execute("SELECT DISTINCT kind, day FROM meta.touched ORDER BY ALL").fetchall():
        touched.setdefault(kind, []).append(day)
    current = dict(con.execute("SELECT name, version FROM meta.versions").fetchall())
    computed = dict(con.execute("SELECT name, version FROM meta.marts").fetchall())
    done = []
    for mart in marts.values():
        version, of_inputs = computed[mart.name], _newest(mart, current)
        if version is not None and (version >= of_inputs or (mart.schedule and not scheduled)):
            continue
        days = touched.get(mart.partition, []) if mart.partition and version is not None else None
        try:
            with transaction(con):
                refreshed = compute(con, mart, days) if days is None or days else None
                if refreshed:
                    _leave_to_report(con, refreshed)
                if days is None:
                    computed |= dict.fromkeys(_compute_readers_as_a_whole(con, marts, mart))
                _computed(con, mart, of_inputs)
            current[mart.table] = of_inputs
            if refreshed:
                done.append(refreshed)
        except ENVIRONMENT:
            raise  # nothing is wrong with the mart; what is touched stays touched
        except Exception as error:
            log.warning("%s could not be computed: %s", mart.name, error)
            with transaction(con):
                _record(con, mart, [CheckResult(COMPUTES, 1)])
                con.execute("UPDATE meta.marts SET version = NULL WHERE name = ?", [mart.name])
    if touched:
        con.execute("DELETE FROM meta.touched")
    return done


def compute(con: duckdb.DuckDBPyConnection, mart: Mart, days: Sequence[date] | None) -> Refreshed:
    """Compute a mart for these partitions, or as a whole, and check it. Inside a transaction."""
    where = mart.only(days)
    con.execute(  # for the checks
        "CREATE OR REPLACE TEMP TABLE days AS SELECT UNNEST($days::DATE[]) AS day", {"days": days or []}
    )
    con.execute(f"DELETE FROM {mart.table}{where}")
    if mart.sql:
        con.execute(f"INSERT INTO {mart.table} BY NAME SELECT * FROM ({mart.sql}) m{where}")
    else:
        inputs = {name: con.sql(f"FROM {name}") for name in mart.inputs}
        con.register("frame", mart.compute(inputs, Context(as_of=progress(con).as_of)))
        con.execute(f"INSERT INTO {mart.table} BY NAME SELECT * FROM frame")
        con.unregister("frame")
    con.execute(f"CREATE OR REPLACE TEMP VIEW refreshed AS SELECT * FROM {mart.table}{where}")
    # One query for all, but not one of scalar subqueries: planning that takes longer than all of them.
    asked = ["refreshed", *(f"({check.breaches})" for check in mart.checks)]
    counts = con.execute(" UNION ALL ".join(f"SELECT {i}, count(*) FROM {q}" for i, q in enumerate(asked)))
    rows, *breaches = (n for _, n in sorted(counts.fetchall()))
    checks = [CheckResult(COMPUTES, 0), *map(CheckResult, mart.checks, breaches)]
    _record(con, mart, checks)
    changed.record(con, mart.name, days)
    return Refreshed(mart, rows, None if days is None else tuple(days), tuple(checks))


def recompute(con: duckdb.DuckDBPyConnection, mart: Mart, days: Sequence[date] | None) -> Refreshed:
    """Compute a mart at a person's wish; its readers are computed at the next refresh.

    Call it inside a transaction.
    """
    refreshed = compute(con, mart, days)
    if days is None:
        current = dict(con.execute("SELECT name, version FROM meta.versions").fetchall())
        _computed(con, mart, _newest(mart, current))
    (version,) = one(con, "SELECT nextval('meta.batch_ids')")
    set_version(con, [mart.table], version)
    if mart.partition and days is not None:
        con.execute(
            "INSERT INTO meta.touched SELECT $kind, day FROM days EXCEPT SELECT kind, day FROM meta.touched",
            {"kind": mart.partition},
        )
    return refreshed


def is_stale(con: duckdb.DuckDBPyConnection, mart: Mart) -> bool:
    """Tell whether anything that a mart is made of has changed since it was computed."""
    (computed,) = one(con, "SELECT any_value(version) FROM meta.marts WHERE name = ?", [mart.name])
    current = dict(con.execute("SELECT name, version FROM meta.versions").fetchall())
    return computed is None or computed < _newest(mart, current)


def _newest(mart: Mart, versions: Mapping[str, int]) -> int:
    """Return what a mart's inputs are at."""
    inputs = [*map(_versioned, mart.inputs), *([] if mart.sql else [AS_OF])]
    return max((versions.get(name, 0) for name in inputs), default=0)


def _versioned(name: str) -> str:
    """A state view changes with its history."""
    return "history." + name.removeprefix("state.") if name.startswith("state.") else name


def _computed(con: duckdb.DuckDBPyConnection, mart: Mart, version: int) -> None:
    con.execute("UPDATE meta.marts SET version = ? WHERE name = ?", [version, mart.name])
    set_version(con, [mart.table], version)


def _compute_readers_as_a_whole(
    con: duckdb.DuckDBPyConnection, marts: Mapping[str, Mart], computed: Mart
) -> list[str]:
    """Have the daily marts that read a mart follow it, where all its days may have changed."""
    readers = [mart.name for mart in marts.values() if mart.partition and computed.table in mart.inputs]
    if readers:
        con.execute("UPDATE meta.marts SET version = NULL WHERE list_contains(?, name)", [readers])
    return readers


def _record(con: duckdb.DuckDBPyConnection, mart: Mart, results: Sequence[CheckResult]) -> None:
    names = [result.check.name for result in results]
    # An outcome that Dagster knows already need not be told again.
    known = con.execute("SELECT name, breaches FROM meta.checks WHERE mart = ? AND reported", [mart.name])
    told = set(known.fetchall())
    con.execute("DELETE FROM meta.checks WHERE mart = ? AND list_contains(?, name)", [mart.name, names])
    con.execute(
        "INSERT INTO meta.checks SELECT $mart, UNNEST($names), UNNEST($severities), UNNEST($breaches), "
        "CAST(now() AS TIMESTAMP), UNNEST($told)",
        {
            "mart": mart.name,
            "names": names,
            "severities": [result.check.severity for result in results],
            "breaches": [result.breaches for result in results],
            "told": [(result.check.name, result.breaches) in told for result in results],
        },
    )


def _leave_to_report(con: duckdb.DuckDBPyConnection, refreshed: Refreshed) -> None:
    """Write down, for `orchestration.report`, which partitions now hold how many rows."""
    mart = refreshed.mart
    where = "" if refreshed.days is None else f" AND day IN (SELECT UNNEST({_dates(refreshed.days)}))"
    con.execute(f"DELETE FROM meta.unreported WHERE mart = $mart{where}", {"mart": mart.name})
    day, group = (mart.partition, "GROUP BY ALL") if mart.partition else ("NULL", "")
    rows = f"SELECT {day} AS day, count(*) AS rows FROM {mart.table} {group}"
    if refreshed.days is not None:
        # A day that lost its last row is refreshed too.
        rows = (
            f"SELECT d.day, count(m.{mart.partition}) AS rows FROM (SELECT UNNEST({_dates(refreshed.days)}) "
            f"AS day) d LEFT JOIN {mart.table} m ON m.{mart.partition} = d.day GROUP BY d.day"
        )
    con.execute(
        f"INSERT INTO meta.unreported SELECT $mart, day, rows, CAST(now() AS TIMESTAMP), "
        f"'batch ' || (SELECT max(batch_id) FROM meta.batches) FROM ({rows})",
        {"mart": mart.name},
    )


def _dates(days: Sequence[date]) -> str:
    return "[" + ", ".join(f"DATE '{day}'" for day in days) + "]"
