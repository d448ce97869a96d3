"""The analysts' database: written beside the old one, synced to disk, renamed over it.

Whoever has the old file open keeps reading it; whoever opens it next gets the new one; nobody
ever meets half a file or a lock.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb

from bi_assets import __version__
from bi_assets.files import sync
from bi_assets.outputs import generations
from bi_assets.outputs.draft import Source, from_core, write
from bi_assets.outputs.generations import Generation, How
from bi_assets.outputs.pace import pause
from bi_assets.refresh import changed
from bi_assets.refresh.mart import Mart
from bi_assets.settings import Settings
from bi_assets.sql import literal, one, quote, transaction

# Old enough for every tool that analysts have; DuckDB 2.0's own format is not readable by 1.x.
# A draft is whole or thrown away, and needs no log. Row groups are small so that a few new rows
# are written with few others.
_FORMAT = "STORAGE_VERSION 'v1.2.0', ROW_GROUP_SIZE 30720, RECOVERY_MODE 'NO_WAL_WRITES'"
_UNUSED_BLOCKS = 64
"""Free blocks (16 MB) that are no reason to write a file anew, however small it is."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Published:
    """A published file: its size in bytes, how it was made, and how many seconds that took."""

    path: Path
    size: int
    how: How
    seconds: float

    @property
    def pause(self) -> float:
        """Seconds to wait before the next one: those that take long are made less often."""
        return pause(self.seconds)


def publish(
    con: duckdb.DuckDBPyConnection, marts: Mapping[str, Mart], settings: Settings, *, anew: bool = False
) -> Published:
    """Publish every mart, and `_meta` about them.

    A mart whose error-check fails is published as it last was. With `anew` nothing of what was published
    is used: every mart is written as it is, and the file before is removed. Call it outside a transaction.
    """
    started = time.monotonic()
    target = settings.published_file
    target.parent.mkdir(parents=True, exist_ok=True)
    generations.clear_away(target)
    generations.remove_log(target)
    draft = target.with_name(f".{target.name}.tmp")
    old = None if anew else generations.generation(con, target)
    try:
        how, new = _make(con, marts, target, draft, old, anew=anew)
    except duckdb.Error as error:
        if old is None:
            raise
        log.warning("%s could not be brought up to date, and is written anew: %s", target, error)
        generations.clear_away(target)
        old = None
        how, new = _make(con, marts, target, draft, old)
    sync(draft)
    draft.chmod(0o444)
    size = draft.stat().st_size
    # The core database knows a file before anybody can see it.
    with transaction(con):
        generations.record(con, draft, new, old, how, time.monotonic() - started)
    generations.replace(draft, target)
    if anew:
        generations.hidden(target).unlink(missing_ok=True)
    return Published(target, size, how, time.monotonic() - started)


def is_behind(con: duckdb.DuckDBPyConnection, settings: Settings) -> bool:
    """Tell whether marts have changed since they were published, as after a crash in between."""
    published = generations.generation(con, settings.published_file)
    if published is None:
        return True
    changes = changed.since(con, {name: stamp.version for name, stamp in published.stamps.items()})
    return bool(set(changes) - set(failing(con)))


def _make(
    con: duckdb.DuckDBPyConnection,
    marts: Mapping[str, Mart],
    target: Path,
    draft: Path,
    old: Generation | None,
    *,
    anew: bool = False,
) -> tuple[How, Generation]:
    """Write the draft: say how, and what it holds."""
    held_back = failing(con) if target.exists() and not anew else {}
    try:
        how, base, tables = _begin(con, target, draft, old)
        last_good: set[str] = set()
        if held_back:
            con.execute(f"ATTACH {literal(str(target))} AS last_good (READ_ONLY)")
            last_good = _tables(con, "last_good")
        version = changed.newest(con)
        sources = {
            name: Source(f"last_good.{name}", "*", old.stamps.get(name) if old else None)
            if name in held_back and name in last_good
            else from_core(mart, version)
            for name, mart in marts.items()
        }
        new = Generation(
            generations.new_id(), {name: source.stamp for name, source in sources.items() if source.stamp}
        )
        with transaction(con):
            for gone in tables - set(marts):
                con.execute(f"DROP TABLE draft.{quote(gone)}")
            write(con, marts, sources, base.stamps if base else {})
            _meta(con, marts, held_back, new.id)
    finally:
        con.execute("DETACH DATABASE IF EXISTS last_good")
        con.execute("DETACH DATABASE IF EXISTS draft")
    return how, new


def _begin(
    con: duckdb.DuckDBPyConnection, target: Path, draft: Path, old: Generation | None
) -> tuple[How, Generation | None, set[str]]:
    """Attach a draft, made as cheaply as can be: say how, what it holds already, and its tables."""
    ways: tuple[tuple[How, Path], ...] = (("in place", generations.hidden(target)), ("copy", target))
    for how, start in ways if old else ():
        base = generations.generation(con, start)
        if base is None:
            continue
        try:
            generations.take(target, draft, how)
        except OSError:
            draft.unlink(missing_ok=True)
            continue
        _attach(con, draft)
        if _is_fit(con, base):
            return how, base, _tables(con, "draft")
        con.execute("DETACH draft")
        draft.unlink()
    _attach(con, draft)
    return "whole", None, set()


def _attach(con: duckdb.DuckDBPyConnection, draft: Path) -> None:
    con.execute(f"ATTACH {literal(str(draft))} AS draft ({_FORMAT})")


def _is_fit(con: duckdb.DuckDBPyConnection, base: Generation) -> bool:
    """Tell whether the draft is what it is taken for, and not mostly air."""
    ids = con.execute("SELECT DISTINCT publication FROM draft._meta").fetchall()
    total, free = one(
        con, "SELECT total_blocks, free_blocks FROM pragma_database_size() WHERE database_name = 'draft'"
    )
    return ids == [(base.id,)] and free <= max(_UNUSED_BLOCKS, total / 2)


def _tables(con: duckdb.DuckDBPyConnection, database: str) -> set[str]:
    """Return the marts that a published file has a table of."""
    return {name for (name,) in con.execute(f"SELECT table_name FROM {database}._meta").fetchall()}


def failing(con: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Mart -> the error-checks that it fails; one that is yet to be computed counts as failing."""
    return dict(con.execute(
        "SELECT mart, string_agg(name, ', ' ORDER BY name) FROM ("
        "  SELECT mart, name FROM meta.checks WHERE severity = 'error' AND breaches > 0"
        "  UNION SELECT name, 'not computed' FROM meta.marts WHERE version IS NULL) GROUP BY mart"
    ).fetchall())  # fmt: skip


def _meta(
    con: duckdb.DuckDBPyConnection, marts: Mapping[str, Mart], held_back: Mapping[str, str], id_: str
) -> None:
    con.execute(
        """
CREATE OR REPLACE TABLE draft._meta AS
SELECT table_name, CAST(now() AS TIMESTAMP) AS published_at, as_of, complete_through, offsets,
  $version AS version,
  CASE WHEN list_contains($held_back, table_name) THEN 'last good version: a check fails'
       WHEN warnings > 0 THEN 'warning: ' || warned_by ELSE 'ok' END AS quality,
  $publication AS publication
FROM (SELECT UNNEST($names) AS table_name)
LEFT JOIN (SELECT any_value(as_of) AS as_of, any_value(complete_through) AS complete_through
           FROM meta.progress) ON true
LEFT JOIN (SELECT CAST(json_group_object(topic || '/' || partition, next_offset) AS VARCHAR) AS offsets
           FROM meta.offsets) ON true
LEFT JOIN (SELECT mart, count(*) AS warnings, string_agg(name, ', ' ORDER BY name) AS warned_by
           FROM meta.checks WHERE breaches > 0 GROUP BY mart) ON mart = table_name
ORDER BY table_name""",
        {"version": __version__, "held_back": list(held_back), "names": list(marts), "publication": id_},
    )
    con.execute("COMMENT ON TABLE draft._meta IS 'What is published here: one row per table'")
