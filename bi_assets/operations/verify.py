"""`pharmacy-bi verify`: everything computed from the change logs again, and compared row by row.

The core file is copied under the lock, which takes a moment; the rest is done with the copy, while landing
goes on. What is yet to be computed or published is not compared, and told.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from bi_assets.contracts.contract import Contract
from bi_assets.history.versions import rebuild
from bi_assets.landing.change_log import BUSINESS_DATE, VALIDITY
from bi_assets.outputs import generations
from bi_assets.outputs.draft import from_core
from bi_assets.outputs.publish import failing
from bi_assets.refresh import changed
from bi_assets.refresh.mart import Mart
from bi_assets.refresh.refresh import compute, is_stale
from bi_assets.sql import literal, one, quote, transaction
from bi_assets.warehouse import Warehouse

_SENTENCES = 100
"""Differences told of one table; the others are counted."""
_TOLERANCE = 1e-9
"""Floats are sums in any order: relative to the larger one, or to 1."""
_MEMORY = "300MB"
_FOLDER = ".verify-"
_CONTENTS = ("meta.progress", "cdc.quarantine")
"""What marts depend on beside the change logs."""


@dataclass
class Verified:
    """What was found: a sentence for each difference, and what could not be compared."""

    differences: list[str] = field(default_factory=list)
    not_compared: list[str] = field(default_factory=list)
    tables: int = 0
    rows: int = 0

    @property
    def ok(self) -> bool:
        """Tell whether everything that was compared is the same."""
        return not self.differences


def verify(warehouse: Warehouse) -> Verified:
    """Recompute history and every mart from the change logs; compare with what is stored and published.

    It works in a folder of its own beside the core file, and removes it.
    """
    found = Verified()
    with scratch(warehouse.settings.data_dir) as folder:
        stored, published = folder / "stored.duckdb", folder / "published.duckdb"
        with warehouse.open(evolve=True) as con:
            _copy(con, stored)
            computed = _computed(con, warehouse, found)
            compared = _hold_published(con, warehouse, published, found) & computed
        with duckdb.connect(
            str(folder / "fresh.duckdb"),
            config={"memory_limit": _MEMORY, "temp_directory": str(folder / "tmp")},
        ) as con:
            con.execute(f"ATTACH {literal(str(stored))} AS stored (READ_ONLY)")
            warehouse.prepare(con, evolve=True)
            for contract in warehouse.contracts.values():
                _recompute_history(con, contract)
                _compare_history(con, contract, found)
            for name in _CONTENTS:
                con.execute(f"DELETE FROM {name}")
                con.execute(f"INSERT INTO {name} BY NAME FROM stored.{name}")
            if compared:
                con.execute(f"ATTACH {literal(str(published))} AS published (READ_ONLY)")
            for mart in warehouse.marts.values():
                try:
                    with transaction(con):
                        compute(con, mart, None)
                except duckdb.Error as error:
                    if mart.name in computed:
                        found.differences.append(f"{mart.name} can't be computed: {error}")
                    continue
                if mart.name in computed:
                    _compare_mart(con, mart, f"stored.{mart.table}", "*", mart.table, found)
                if mart.name in compared:
                    columns = from_core(mart, 0).columns
                    told = f"{mart.name} as published"
                    _compare_mart(con, mart, f"published.{mart.name}", columns, told, found)
    return found


@contextmanager
def scratch(data_dir: Path) -> Iterator[Path]:
    """Give a folder that is gone afterwards; those that killed processes left are removed first."""
    remove_leftovers(data_dir)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=data_dir))
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def remove_leftovers(data_dir: Path) -> list[str]:
    """Remove the folders that nobody works in; return their names."""
    removed = []
    for folder in data_dir.glob(f"{_FOLDER}*"):
        handle = os.open(folder, os.O_RDONLY)
        try:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
                removed.append(folder.name)
        finally:
            os.close(handle)
    return removed


def _copy(con: duckdb.DuckDBPyConnection, stored: Path) -> None:
    con.execute(f"ATTACH {literal(str(stored))} AS stored")
    try:
        con.execute("COPY FROM DATABASE core TO stored")
    finally:
        con.execute("DETACH stored")


def _computed(con: duckdb.DuckDBPyConnection, warehouse: Warehouse, found: Verified) -> set[str]:
    """Return the marts that are up to date."""
    stale = {mart.name for mart in warehouse.marts.values() if is_stale(con, mart)}
    found.not_compared += [f"{name} is yet to be computed (`pharmacy-bi sync`)." for name in sorted(stale)]
    return set(warehouse.marts) - stale


def _hold_published(
    con: duckdb.DuckDBPyConnection, warehouse: Warehouse, held: Path, found: Verified
) -> set[str]:
    """Keep the published file as it is now under another name; return the marts that are to be compared."""
    target = warehouse.settings.published_file
    if not target.exists():
        found.not_compared.append("Nothing is published yet (`pharmacy-bi sync`).")
        return set()
    try:
        os.link(target, held)
    except OSError:
        shutil.copyfile(target, held)
    known = generations.generation(con, target)
    stamps = known.stamps if known else {}
    behind = set(changed.since(con, {name: stamp.version for name, stamp in stamps.items()}))
    failed = failing(con)
    for name in warehouse.marts:
        if name in failed:
            found.not_compared.append(
                f"{name} as published is its last good version: it fails {failed[name]}."
            )
        elif name in behind:
            found.not_compared.append(f"{name} is yet to be published (`pharmacy-bi sync`).")
    return set(warehouse.marts) - behind - set(failed)


def _recompute_history(con: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    table = quote(contract.table)
    derived = [*VALIDITY, *([BUSINESS_DATE] if contract.business_date else [])]
    day = contract.business_date
    con.execute(
        f"INSERT INTO cdc.{table} BY NAME SELECT * EXCLUDE ({', '.join(derived)})"
        + (f", business_date({quote(day)}) AS {BUSINESS_DATE}" if day else "")
        + f" FROM stored.cdc.{table}"
    )
    with transaction(con):
        rebuild(con, contract)


def _compare_history(con: duckdb.DuckDBPyConnection, contract: Contract, found: Verified) -> None:
    """Compare how long each row of a change log was true, which is all that history adds to it."""
    key = (*contract.key, "_topic", "_partition", "_offset", "_batch_id")
    derived = [*VALIDITY, *([BUSINESS_DATE] if contract.business_date else [])]
    columns = ", ".join(map(quote, (*key, *derived)))
    table = f"cdc.{quote(contract.table)}"
    _compare(
        con, f"SELECT {columns} FROM stored.{table}", f"SELECT {columns} FROM {table}", key,
        f"history.{contract.table}", found,
    )  # fmt: skip


def _compare_mart(
    con: duckdb.DuckDBPyConnection, mart: Mart, held: str, columns: str, told: str, found: Verified
) -> None:
    key = tuple(dict.fromkeys([*mart.grain, *filter(None, [mart.partition])]))
    _compare(con, f"SELECT * FROM {held}", f"SELECT {columns} FROM {mart.table}", key, told, found)


def _compare(
    con: duckdb.DuckDBPyConnection, held: str, recomputed: str, key: Sequence[str], told: str, found: Verified
) -> None:
    """Add a sentence for each row that differs. What is the same is known by the sum of its rows' hashes."""
    checksum = "SELECT count(*), sum(CAST(hash(t) AS HUGEINT)) FROM ({}) t"
    here, there = (one(con, checksum.format(sql)) for sql in (held, recomputed))
    found.tables += 1
    found.rows += there[0]
    if here == there:
        return
    types = {row[0]: row[1] for row in con.execute(f"DESCRIBE {recomputed}").fetchall()}
    stored = {row[0] for row in con.execute(f"DESCRIBE {held}").fetchall()}
    if stored != set(types):
        found.differences.append(f"{told} has other columns: {', '.join(sorted(stored ^ set(types)))}.")
        return
    joined = " AND ".join(f"s.{quote(k)} IS NOT DISTINCT FROM r.{quote(k)}" for k in key)
    differs = " OR ".join(_differs(quote(name), kind) for name, kind in types.items() if name not in key)
    con.execute(f"""
CREATE OR REPLACE TEMP TABLE differing AS
SELECT s, r FROM (SELECT *, true AS there FROM ({held})) s
FULL JOIN (SELECT *, true AS there FROM ({recomputed})) r ON {joined}
WHERE s.there IS NULL OR r.there IS NULL{f" OR {differs}" if differs else ""}""")
    (n,) = one(con, "SELECT count(*) FROM differing")
    for s, r in con.execute(f"FROM differing LIMIT {_SENTENCES}").fetchall():
        found.differences.append(_sentence(told, key, s, r, types))
    if n > _SENTENCES:
        found.differences.append(f"{told}: {n - _SENTENCES:,} rows more differ.")


def _differs(name: str, kind: str) -> str:
    same = f"s.{name} IS NOT DISTINCT FROM r.{name}"
    if kind in ("DOUBLE", "FLOAT"):
        close = f"abs(s.{name} - r.{name}) <= {_TOLERANCE} * greatest(abs(s.{name}), abs(r.{name}), 1)"
        same = f"{same} OR coalesce({close}, false)"
    return f"NOT ({same})"


def _sentence(
    told: str, key: Sequence[str], stored: dict[str, Any], recomputed: dict[str, Any], types: dict[str, str]
) -> str:
    is_stored, is_recomputed = bool(stored and stored["there"]), bool(recomputed and recomputed["there"])
    row = stored if is_stored else recomputed
    where = f"{told}, " + ", ".join(f"{name} {row[name]}" for name in key)
    if not is_recomputed:
        return f"{where}: is there, and should not be."
    if not is_stored:
        return f"{where}: is missing."
    return f"{where}: " + "; ".join(
        f"{name} is {stored[name]}, recomputed {recomputed[name]}"
        for name in types
        if stored[name] != recomputed[name]
    )
