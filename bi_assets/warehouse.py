"""The DuckDB session: one writer at a time, short transactions, one schema for everyone."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import duckdb

from bi_assets.contracts.contract import PATIENTS, Contract
from bi_assets.errors import UserError
from bi_assets.history import touched, versions
from bi_assets.landing import (
    change_log,
    clocks,
    drift,
    erasure,
    flattened,
    land,
    offsets,
    quarantine,
    sweep,
    transactions,
    truncates,
)
from bi_assets.landing.wall_time import macros
from bi_assets.outputs import generations
from bi_assets.refresh import changed, refresh
from bi_assets.refresh.mart import Mart
from bi_assets.settings import Settings
from bi_assets.sql import literal, transaction

_PATIENCE_SECONDS = 60.0
_MEMORY = "300MB"
"""What the database may take before it uses the disk: a backlog of any size has to fit."""
_ROW_GROUP = 30_720
"""Rows written and skipped together. At DuckDB's 122,880, each batch of a backlog leaves a rest that
is then written again with the next, and each small batch writes a larger rest."""
_SCHEMA_VERSION = "2"


@dataclass(frozen=True)
class Warehouse:
    """The core database with the contracts and marts that it holds."""

    settings: Settings
    contracts: Mapping[str, Contract]
    marts: Mapping[str, Mart] = field(default_factory=dict)
    faults: tuple[str, ...] = ()

    @property
    def topics(self) -> list[str]:
        """The topics that are read: the connector's heartbeat and transactions, and that of each table."""
        return [
            self.settings.heartbeat_topic,
            self.settings.transaction_topic,
            *map(self.settings.topic, self.contracts),
        ]

    @contextmanager
    def open(self, *, evolve: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the core file, alone, for as long as it takes.

        Writers queue at the lock file beside it. With `evolve`, which is for those who are about to
        land or compute, the file takes the shape of this process's contracts and marts; others may
        have been started before a file was changed, and leave it as it is.

        Errors: `UserError` when another program holds the file, or when it was made with another time
        zone or pseudonym key.
        """
        core = self.settings.core_file
        core.parent.mkdir(parents=True, exist_ok=True)
        with core.with_suffix(".duckdb.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with _attached(core) as con:
                self.prepare(con, evolve=evolve)
                yield con

    def prepare(self, con: duckdb.DuckDBPyConnection, *, evolve: bool = False) -> None:
        """Set up a session; make the schema where there is none, and `evolve` it where asked to."""
        con.execute(
            "SET TimeZone = 'UTC'; CREATE SCHEMA IF NOT EXISTS meta; "
            "CREATE TABLE IF NOT EXISTS meta.setup (name VARCHAR, value VARCHAR); "
            + "; ".join(macros(self.settings.source_timezone, self.settings.business_timezone))
        )
        found = dict(con.execute("SELECT name, value FROM meta.setup").fetchall())
        if found.pop(erasure.MARK, None):
            con.execute(f"SET VARIABLE {erasure.MARK} = true")
        wanted = self._setup
        _refuse_changes(found, wanted)
        if found and (found == wanted or not evolve):
            return
        with transaction(con):
            for statement in self._tables():
                con.execute(statement)
            for contract in self.contracts.values():
                versions.upgrade(con, contract)
            for statement in self._views():
                con.execute(statement)
            refresh.create_tables(con, self.marts)
            con.execute("DELETE FROM meta.setup WHERE name <> ?", [erasure.MARK])
            con.executemany("INSERT INTO meta.setup VALUES (?, ?)", list(wanted.items()))

    def _tables(self) -> list[str]:
        statements = [f"CREATE SCHEMA IF NOT EXISTS {s}" for s in ("cdc", "history", "state", "marts")]
        landing = (
            land,
            offsets,
            drift,
            flattened,
            quarantine,
            erasure,
            clocks,
            sweep,
            transactions,
            truncates,
        )
        for module in (*landing, touched, refresh, changed, generations):
            statements += module.SCHEMA
        for contract in self.contracts.values():
            statements += change_log.create_sql(contract, self.settings.pseudonym_key)
        return statements

    def _views(self) -> list[str]:
        key, timezone = self.settings.pseudonym_key, self.settings.business_timezone
        views = [s for c in self.contracts.values() for s in versions.create_sql(c, key, timezone)]
        if PATIENTS in self.contracts:
            views.append(quarantine.patients_sql(self.contracts[PATIENTS], key))
        return views

    @cached_property
    def _setup(self) -> dict[str, str]:
        """What the file's contents depend on."""
        marts = [(mart.name, mart.digest) for mart in self.marts.values()]
        shape = repr((_SCHEMA_VERSION, self._tables(), self._views(), marts))
        key = self.settings.pseudonym_key
        return {
            "BI_SOURCE_TIMEZONE": self.settings.source_timezone,
            "BI_TIMEZONE": self.settings.business_timezone,
            "BI_PSEUDONYM_KEY": _fingerprint(key) if key else "none",
            "schema": hashlib.sha256(shape.encode()).hexdigest(),
        }


def attach(con: duckdb.DuckDBPyConnection, path: Path, name: str) -> None:
    """Open a core file under a name; make it where there is none."""
    con.execute(f"ATTACH IF NOT EXISTS {literal(str(path))} AS {name} (ROW_GROUP_SIZE {_ROW_GROUP})")


@contextmanager
def _attached(core: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Attach a file to this process's database engine, for a connection of its own."""
    con = _engine(os.getpid(), core).cursor()
    try:
        _attach_patiently(con, core)
        try:
            con.execute("USE core")
            yield con
        finally:
            con.close()
            _engine(os.getpid(), core).execute("DETACH DATABASE IF EXISTS core")
    finally:
        con.close()


@lru_cache(maxsize=1)
def _engine(process: int, core: Path) -> duckdb.DuckDBPyConnection:
    """Return a process's database engine for a file; to make one takes longer than to attach a file to it.

    A forked process has one of its own: threads do not come along.
    """
    return duckdb.connect(
        config={
            "memory_limit": _MEMORY,
            "temp_directory": f"{core}.tmp",
            "preserve_insertion_order": False,  # what is in order says so; the rest is done by all cores
        }
    )


def _attach_patiently(con: duckdb.DuckDBPyConnection, core: Path) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            attach(con, core, "core")
            return
        except duckdb.IOException as error:
            if "Conflicting lock" not in str(error):
                raise
            if time.monotonic() > deadline:
                holder = str(error).partition("held in ")[2].partition(". ")[0]
                raise UserError(
                    f"{core} is open in another program ({holder}). Close it there; to query, open "
                    "publish/marts.duckdb instead, which is never locked."
                ) from error
            time.sleep(0.05)


def _fingerprint(key: str) -> str:
    return hmac.new(key.encode(), b"pharmacy-bi", hashlib.sha256).hexdigest()[:16]


def _refuse_changes(found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for name in ("BI_SOURCE_TIMEZONE", "BI_TIMEZONE", "BI_PSEUDONYM_KEY"):
        if found and found[name] != wanted[name]:
            was = "another key" if name == "BI_PSEUDONYM_KEY" else found[name]
            raise UserError(
                f"{name} has changed: the data in BI_DATA_DIR was made with {was}. Set it back, or "
                "name an empty BI_DATA_DIR and run `pharmacy-bi sync`, which reads everything again."
            )
