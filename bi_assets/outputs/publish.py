"""The analysts' database: written beside the old one, synced to disk, renamed over it.

Whoever has the old file open keeps reading it; whoever opens it next gets the new one; nobody
ever meets half a file or a lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from bi_assets import __version__
from bi_assets.refresh.mart import Mart, MartColumn
from bi_assets.settings import Settings
from bi_assets.sql import literal, one

# Old enough for every tool that analysts have; DuckDB 2.0's own format is not readable by 1.x.
_STORAGE_VERSION = "v1.2.0"


@dataclass(frozen=True)
class Published:
    """A published file: its size in bytes, and how many seconds it took."""

    path: Path
    size: int
    seconds: float


def publish(con: duckdb.DuckDBPyConnection, marts: Mapping[str, Mart], settings: Settings) -> Published:
    """Publish every mart, and `_meta` about them.

    A mart whose error-check fails is published as it last was. Call it outside a transaction.
    """
    started = time.monotonic()
    target = settings.published_file
    target.parent.mkdir(parents=True, exist_ok=True)
    for left_by_a_crash in target.parent.glob(f".{target.name}.*"):
        left_by_a_crash.unlink()
    draft = target.with_name(f".{target.name}.tmp")
    held_back = _failing(con) if target.exists() else {}
    con.execute(f"ATTACH {literal(str(draft))} AS draft (STORAGE_VERSION '{_STORAGE_VERSION}')")
    try:
        if held_back:
            con.execute(f"ATTACH {literal(str(target))} AS last_good (READ_ONLY)")
        for mart in marts.values():
            _copy(con, mart, "last_good" if mart.name in held_back else None)
        _meta(con, marts, held_back)
    finally:
        if held_back:
            con.execute("DETACH DATABASE IF EXISTS last_good")
        con.execute("DETACH draft")
    size = draft.stat().st_size
    _replace(draft, target)
    return Published(target, size, time.monotonic() - started)


def _failing(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Mart -> the error-checks that it fails; one that is yet to be computed counts as failing."""
    return dict(con.execute(
        "SELECT mart, string_agg(name, ', ' ORDER BY name) FROM ("
        "  SELECT mart, name FROM meta.checks WHERE severity = 'error' AND breaches > 0"
        "  UNION SELECT name, 'not computed' FROM meta.marts WHERE version IS NULL) GROUP BY mart"
    ).fetchall())  # fmt: skip


def _copy(con: duckdb.DuckDBPyConnection, mart: Mart, last_good: str | None) -> None:
    if last_good and one(
        con,
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = $db AND table_name = $name",
        {"db": last_good, "name": mart.name},
    ) == (1,):
        con.execute(f"CREATE TABLE draft.{mart.name} AS FROM {last_good}.{mart.name}")
    else:
        columns = ", ".join(_published(column) for column in mart.columns)
        con.execute(f"CREATE TABLE draft.{mart.name} AS SELECT {columns} FROM {mart.table} ORDER BY ALL")
    con.execute(f"COMMENT ON TABLE draft.{mart.name} IS {literal(mart.question)}")
    # A last good version may be from before a column was added.
    held = {row[0] for row in con.execute(f"DESCRIBE draft.{mart.name}").fetchall()}
    for column in mart.columns:
        if column.name not in held:
            continue
        unit = f" [{column.unit}]" if column.unit else ""
        con.execute(f"COMMENT ON COLUMN draft.{mart.name}.{column.name} IS {literal(column.meaning + unit)}")


def _published(column: MartColumn) -> str:
    """SQL of a column on its way out: the one place where money is rounded (metrics.md G3)."""
    if column.unit == "money":
        return f"CAST(round({column.name}, 2) AS DECIMAL(18, 2)) AS {column.name}"
    return column.name


def _meta(con: duckdb.DuckDBPyConnection, marts: Mapping[str, Mart], held_back: Mapping[str, str]) -> None:
    con.execute(
        """
CREATE TABLE draft._meta AS
SELECT table_name, CAST(now() AS TIMESTAMP) AS published_at, as_of, complete_through, offsets,
  $version AS version,
  CASE WHEN list_contains($held_back, table_name) THEN 'last good version: a check fails'
       WHEN warnings > 0 THEN 'warning: ' || warned_by ELSE 'ok' END AS quality
FROM (SELECT UNNEST($names) AS table_name)
LEFT JOIN (SELECT any_value(as_of) AS as_of, any_value(complete_through) AS complete_through
           FROM meta.progress) ON true
LEFT JOIN (SELECT CAST(json_group_object(topic || '/' || partition, next_offset) AS VARCHAR) AS offsets
           FROM meta.offsets) ON true
LEFT JOIN (SELECT mart, count(*) AS warnings, string_agg(name, ', ' ORDER BY name) AS warned_by
           FROM meta.checks WHERE breaches > 0 GROUP BY mart) ON mart = table_name
ORDER BY table_name""",
        {"version": __version__, "held_back": list(held_back), "names": list(marts)},
    )
    con.execute("COMMENT ON TABLE draft._meta IS 'What is published here: one row per table'")


def _replace(draft: Path, target: Path) -> None:
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.chmod(0o444)
    draft.replace(target)
    # Left by someone who opened the old file for writing; it would make the new one unreadable.
    target.with_name(target.name + ".wal").unlink(missing_ok=True)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
