"""What Dagster remembers, and for how long.

A micro-batch run leaves some 70 kB of events behind, and a day has a thousand runs. Runs and events
go when they are old, except what tells the present: the newest run of each job, the newest
materialization of each partition, the newest outcome of each check, and the runs that these are
from. Ticks of sensors and schedules are purged by Dagster itself, as dagster.yaml says.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar, cast

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    AssetEventTagsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

KEEP_SUCCESSES = timedelta(days=2)
"""Successful runs, and the materializations that were reported without a run."""
KEEP_OTHERS = timedelta(days=30)
"""Failed and canceled runs, and outcomes of checks, which are reported when they change."""

_KEEP = {
    (dg.DagsterRunStatus.SUCCESS,): KEEP_SUCCESSES,
    (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED): KEEP_OTHERS,
}

# As many as others, who write in between, can wait for.
_RUNS_AT_A_TIME = 100
_EVENTS_AT_A_TIME = 5_000

_PATIENCE_SECONDS = 5.0
_WORTH_IT_BYTES = 64 << 20
_WORTH_IT_SHARE = 0.5

_RUNLESS = ""
_MATERIALIZED = (dg.DagsterEventType.ASSET_MATERIALIZATION.value, dg.DagsterEventType.ASSET_OBSERVATION.value)
_CHECKED = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value

_events = SqlEventLogStorageTable.c
_checks = AssetCheckExecutionsTable.c
_runs = RunsTable.c

_NEWEST_MATERIALIZATIONS = (
    sa.select(sa.func.max(_events.id))
    .where(_events.dagster_event_type.in_(_MATERIALIZED), _events.asset_key.is_not(None))
    .group_by(_events.asset_key, _events.partition, _events.dagster_event_type)
)
# A check that is planned tells nothing but that its run is under way.
_NEWEST_CHECKS = (
    sa.select(sa.func.max(_checks.id))
    .where(_checks.execution_status != "PLANNED")
    .group_by(_checks.asset_key, _checks.check_name, _checks.partition)
)

_T = TypeVar("_T")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Purged:
    """How much is gone: runs with all that they left, and materializations and outcomes without a run."""

    runs: int
    materializations: int
    checks: int


def purge(instance: dg.DagsterInstance, now: datetime) -> Purged:
    """Delete what is old at the time `now` (UTC) and does not tell the present.

    A run goes last of what it left, so that a night which is cut short is made up for by the next.
    """
    events = cast("SqlEventLogStorage", instance.event_log_storage)
    runs = cast("SqlRunStorage", instance.run_storage)
    old = _old_runs(runs, now, keep=_runs_of_the_present(events))
    for some in _in_turn(old, _RUNS_AT_A_TIME):
        _delete_events_of_runs(events, some)
        for run_id in some:
            with contextlib.suppress(FileNotFoundError):  # another purge, started by hand
                instance.compute_log_manager.delete_logs(prefix=[run_id])
        with runs.connect() as con:
            # SQLite does not cascade here, and Dagster's own delete_run leaves them.
            con.execute(sa.delete(RunTagsTable).where(RunTagsTable.c.run_id.in_(some)))
            con.execute(sa.delete(RunsTable).where(_runs.run_id.in_(some)))
    checks = _delete_checks(events, now)
    return Purged(len(old), _delete_materializations(events, now), checks)


def give_back(instance: dg.DagsterInstance) -> dict[str, int]:
    """Rewrite the databases that are mostly empty; return by how many bytes each file has shrunk.

    Room that was freed is used again, so that this is for the first purge after a long time. A
    database that others are writing to is left to the next night.
    """
    home = Path(instance.root_directory)
    found = (
        home / "history" / "event_log.db",
        home / "history" / "runs.db",
        home / "schedules" / "schedules.db",
    )
    return {file.name: freed for file in found if file.exists() and (freed := _shrink(file))}


def _old_runs(storage: SqlRunStorage, now: datetime, keep: set[str]) -> list[str]:
    newest = sa.select(sa.func.max(_runs.id)).group_by(_runs.pipeline_name)
    is_old = sa.or_(*(_ended_before(now - age, statuses) for statuses, age in _KEEP.items()))
    with storage.connect() as con:
        found = con.execute(sa.select(_runs.run_id).where(is_old, _runs.id.not_in(newest)))
        return [run_id for (run_id,) in found if run_id not in keep]


def _ended_before(moment: datetime, statuses: Sequence[dg.DagsterRunStatus]) -> sa.ColumnElement[bool]:
    """Return the condition for runs of these statuses; one that never started has no time of its end."""
    return sa.and_(
        _runs.status.in_([status.value for status in statuses]),
        sa.or_(
            _runs.end_time < moment.timestamp(),
            sa.and_(_runs.end_time.is_(None), _runs.update_timestamp < _stored(moment)),
        ),
    )


def _runs_of_the_present(storage: SqlEventLogStorage) -> set[str]:
    with storage.index_connection() as con:
        materialized = con.execute(
            sa.select(_events.run_id).distinct().where(_events.id.in_(_NEWEST_MATERIALIZATIONS))
        )
        checked = con.execute(sa.select(_checks.run_id).distinct().where(_checks.id.in_(_NEWEST_CHECKS)))
        return {run_id for (run_id,) in [*materialized, *checked]}


def _delete_events_of_runs(storage: SqlEventLogStorage, run_ids: Sequence[str]) -> None:
    events = sa.select(_events.id).where(_events.run_id.in_(run_ids))
    with storage.index_connection() as con:
        con.execute(sa.delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(events)))
        con.execute(sa.delete(AssetCheckExecutionsTable).where(_checks.run_id.in_(run_ids)))
        con.execute(sa.delete(SqlEventLogStorageTable).where(_events.run_id.in_(run_ids)))


def _delete_checks(storage: SqlEventLogStorage, now: datetime) -> int:
    """Delete old outcomes that were reported without a run, then the events that told them."""
    until = _stored(now - KEEP_OTHERS)
    with storage.index_connection() as con:
        con.execute(
            sa.delete(AssetCheckExecutionsTable).where(
                _checks.run_id == _RUNLESS,
                _checks.evaluation_event_timestamp < until,
                _checks.id.not_in(_NEWEST_CHECKS),
            )
        )
    told = sa.select(_checks.evaluation_event_storage_id).where(
        _checks.evaluation_event_storage_id.is_not(None)
    )
    return _delete_runless(storage, _events.dagster_event_type == _CHECKED, until, keep=told)


def _delete_materializations(storage: SqlEventLogStorage, now: datetime) -> int:
    until = _stored(now - KEEP_SUCCESSES)
    kinds = _events.dagster_event_type.in_(_MATERIALIZED)
    return _delete_runless(storage, kinds, until, keep=_NEWEST_MATERIALIZATIONS)


def _delete_runless(
    storage: SqlEventLogStorage, kinds: sa.ColumnElement[bool], until: datetime, keep: sa.Select[tuple[int]]
) -> int:
    wanted = sa.select(_events.id).where(
        _events.run_id == _RUNLESS, kinds, _events.timestamp < until, _events.id.not_in(keep)
    )
    with storage.index_connection() as con:
        found = [number for (number,) in con.execute(wanted)]
    for some in _in_turn(found, _EVENTS_AT_A_TIME):
        with storage.index_connection() as con:
            con.execute(sa.delete(AssetEventTagsTable).where(AssetEventTagsTable.c.event_id.in_(some)))
            con.execute(sa.delete(SqlEventLogStorageTable).where(_events.id.in_(some)))
    return len(found)


def _stored(moment: datetime) -> datetime:
    """Return a moment as the event log keeps it: UTC, without saying so."""
    return moment.replace(tzinfo=None)


def _in_turn(found: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(found), size):
        yield found[start : start + size]


def _shrink(file: Path) -> int:
    before = file.stat().st_size
    try:
        with closing(sqlite3.connect(file, timeout=_PATIENCE_SECONDS)) as con:
            pages, free, size = (
                con.execute(f"PRAGMA {name}").fetchone()[0]
                for name in ("page_count", "freelist_count", "page_size")
            )
            if free * size >= _WORTH_IT_BYTES and free >= _WORTH_IT_SHARE * pages:
                con.execute("VACUUM")
                con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.OperationalError as error:
        log.warning("%s is left as it is until the next night: %s", file.name, error)
    return before - file.stat().st_size
