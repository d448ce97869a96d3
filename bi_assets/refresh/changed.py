"""What changed in the marts, until every published file has it.

A change has a version, which is higher than that of any change before it and of anything published.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import duckdb

from bi_assets.sql import one

SCHEMA = [
    # The newest change of each day of a mart, and of a mart as a whole (day is null).
    "CREATE TABLE IF NOT EXISTS meta.changed (mart VARCHAR, day DATE, version BIGINT)",
    # Up to which version, and by which declaration, a publication holds a mart.
    """CREATE TABLE IF NOT EXISTS meta.published (
        publication VARCHAR, mart VARCHAR, version BIGINT, digest VARCHAR)""",
]
_VERSION = """
SELECT coalesce(max(version), 0) FROM (FROM meta.changed SELECT version UNION ALL FROM meta.published SELECT
version)"""


def record(con: duckdb.DuckDBPyConnection, mart: str, days: Sequence[date] | None) -> None:
    """Note that these days of a mart were computed, or all of it. Inside the transaction that did it."""
    version = newest(con) + 1
    if days is None:
        con.execute("DELETE FROM meta.changed WHERE mart = ?", [mart])
        con.execute("INSERT INTO meta.changed VALUES (?, NULL, ?)", [mart, version])
        return
    con.execute(
        "DELETE FROM meta.changed WHERE mart = $mart AND day IN (SELECT UNNEST($days::DATE[]))",
        {"mart": mart, "days": list(days)},
    )
    con.execute(
        "INSERT INTO meta.changed SELECT $mart, UNNEST($days::DATE[]), $version",
        {"mart": mart, "days": list(days), "version": version},
    )


def newest(con: duckdb.DuckDBPyConnection) -> int:
    """Return the version of the newest change."""
    (version,) = one(con, _VERSION)
    return int(version)


def since(con: duckdb.DuckDBPyConnection, versions: Mapping[str, int]) -> dict[str, list[date] | None]:
    """Return which days of each mart changed after its version; None where it did as a whole.

    A mart that did not change is left out.
    """
    found: dict[str, list[date] | None] = {}
    for mart, day, version in con.execute(
        "SELECT mart, day, version FROM meta.changed ORDER BY day"
    ).fetchall():
        if mart not in versions or version <= versions[mart]:
            continue
        days = found.setdefault(mart, [])
        if day is None:
            found[mart] = None
        elif days is not None:
            days.append(day)
    return found


def forget(con: duckdb.DuckDBPyConnection) -> None:
    """Drop the changes that every publication still known holds."""
    con.execute(
        "DELETE FROM meta.changed WHERE version <= "
        "(SELECT min(version) FROM meta.published p WHERE p.mart = changed.mart)"
    )
