"""What is purged from Dagster, and what stays: a real instance on disk, and a clock that is told."""

from __future__ import annotations

import logging
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.sensor import execute_sensor_iteration

from bi_assets.orchestration import retention
from bi_assets.orchestration.retention import give_back, purge

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_offset=1)
MONTH = timedelta(days=31)
WEEK = timedelta(days=7)
KEY = dg.AssetKey("counted")
CHECK = dg.AssetCheckKey(KEY, "is_positive")


@dg.asset(partitions_def=DAYS, check_specs=[dg.AssetCheckSpec("is_positive", asset=KEY)])
def counted() -> dg.MaterializeResult:  # type: ignore[type-arg]
    """Count."""
    return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=True)])


@dg.op
def work() -> None:
    """Do nothing."""
    print("working")


@dg.op
def fail() -> None:
    """Fail."""
    raise ValueError


@dg.job
def working() -> None:
    work()


@dg.job
def failing() -> None:
    fail()


definitions = dg.Definitions(
    assets=[counted],
    jobs=[working, failing, dg.define_asset_job("counting", selection=[counted])],
    executor=dg.in_process_executor,
)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    shutil.copy(Path(__file__).parents[2] / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        yield instance


def later(by: timedelta) -> datetime:
    return datetime.now(UTC) + by


def run(instance: dg.DagsterInstance, job: str, day: str | None = None) -> str:
    return (
        definitions.resolve_job_def(job)
        .execute_in_process(
            instance=instance, partition_key=day, raise_on_error=False, tags={"told": "by the sensor"}
        )
        .run_id
    )


def report(instance: dg.DagsterInstance, *days: str) -> None:
    for day in days:
        instance.report_runless_asset_event(dg.AssetMaterialization(KEY, partition=day))


def check(instance: dg.DagsterInstance, *outcomes: bool) -> None:
    for passed in outcomes:
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(asset_key=KEY, check_name="is_positive", passed=passed, metadata={})
        )


def rows(instance: dg.DagsterInstance, database: str, table: str) -> int:
    with closing(sqlite3.connect(Path(instance.root_directory) / "history" / f"{database}.db")) as con:
        (count,) = con.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(count)


def materializations(instance: dg.DagsterInstance) -> list[str]:
    return [str(record.partition_key) for record in instance.fetch_materializations(KEY, limit=100).records]


def test_an_old_run_goes_with_its_events_its_tags_and_what_it_printed(instance: dg.DagsterInstance) -> None:
    run(instance, "working")
    of_one = {
        table: rows(instance, database, table)
        for database, table in (("event_log", "event_logs"), ("runs", "run_tags"))
    }
    newest = run(instance, "working")
    assert purge(instance, later(WEEK)).runs == 1
    assert [record.run_id for record in instance.get_runs()] == [newest]
    assert rows(instance, "event_log", "event_logs") == of_one["event_logs"]
    assert rows(instance, "runs", "run_tags") == of_one["run_tags"]
    assert [folder.name for folder in Path(instance.storage_directory()).iterdir()] == [newest]


def test_a_run_of_yesterday_stays(instance: dg.DagsterInstance) -> None:
    run(instance, "working")
    run(instance, "working")
    assert purge(instance, later(timedelta(days=1))).runs == 0


def test_a_failed_run_stays_for_a_month(instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        run(instance, "failing")
    assert purge(instance, later(WEEK)).runs == 0
    assert purge(instance, later(MONTH)).runs == 1


def test_a_run_that_was_canceled_before_it_started_stays_for_a_month(instance: dg.DagsterInstance) -> None:
    for _ in range(2):
        instance.report_run_canceled(instance.create_run_for_job(working))
    assert purge(instance, later(WEEK)).runs == 0
    assert purge(instance, later(MONTH)).runs == 1


def test_a_run_that_has_not_ended_stays(instance: dg.DagsterInstance) -> None:
    under_way = instance.create_run_for_job(working, status=dg.DagsterRunStatus.STARTED).run_id
    run(instance, "working")
    purge(instance, later(MONTH))
    assert instance.get_run_by_id(under_way)


def test_a_run_stays_while_its_materialization_is_the_newest_of_a_partition(
    instance: dg.DagsterInstance,
) -> None:
    first, second = run(instance, "counting", "2026-01-01"), run(instance, "counting", "2026-01-02")
    check(instance, True)
    purge(instance, later(MONTH))
    assert instance.get_run_by_id(first)
    report(instance, "2026-01-01")
    purge(instance, later(MONTH))
    assert not instance.get_run_by_id(first)
    assert instance.get_run_by_id(second)
    assert instance.get_materialized_partitions(KEY) == {"2026-01-01", "2026-01-02"}


def test_a_run_stays_while_its_outcome_of_a_check_is_the_newest(instance: dg.DagsterInstance) -> None:
    first, _ = run(instance, "counting", "2026-01-01"), run(instance, "failing")
    instance.create_run_for_job(definitions.resolve_job_def("counting"))
    report(instance, "2026-01-01")
    purge(instance, later(MONTH))
    assert instance.get_run_by_id(first)
    check(instance, True)
    purge(instance, later(MONTH))
    assert not instance.get_run_by_id(first)


def test_of_what_was_reported_without_a_run_the_newest_of_each_partition_stays(
    instance: dg.DagsterInstance,
) -> None:
    report(instance, "2026-01-01", "2026-01-02", "2026-01-01", "2026-01-01")
    assert purge(instance, later(WEEK)).materializations == 2
    assert materializations(instance) == ["2026-01-01", "2026-01-02"]
    assert instance.get_materialized_partitions(KEY) == {"2026-01-01", "2026-01-02"}


def test_what_was_reported_yesterday_stays(instance: dg.DagsterInstance) -> None:
    report(instance, "2026-01-01", "2026-01-01")
    assert purge(instance, later(timedelta(days=1))).materializations == 0


def test_outcomes_of_checks_stay_for_a_month_and_the_newest_for_ever(instance: dg.DagsterInstance) -> None:
    check(instance, True, False, True, False)
    assert purge(instance, later(WEEK)).checks == 0
    assert purge(instance, later(MONTH)).checks == 3
    (left,) = instance.event_log_storage.get_asset_check_execution_history(CHECK, limit=10)
    assert left.status == AssetCheckExecutionRecordStatus.FAILED


def test_purging_twice_purges_nothing_more(instance: dg.DagsterInstance) -> None:
    for _ in range(3):
        run(instance, "working")
    report(instance, "2026-01-01", "2026-01-01")
    purge(instance, later(MONTH))
    assert purge(instance, later(MONTH)) == retention.Purged(0, 0, 0)


@pytest.fixture
def emptied(instance: dg.DagsterInstance) -> Path:
    """Return a database that was large."""
    file = Path(instance.root_directory) / "history" / "event_log.db"
    with closing(sqlite3.connect(file)) as con:
        con.executemany("INSERT INTO event_logs (event) VALUES (zeroblob(?))", [[1 << 20]] * 70)
        con.commit()
        con.execute("DELETE FROM event_logs")
        con.commit()
    return file


def test_a_database_that_is_mostly_empty_is_rewritten(instance: dg.DagsterInstance, emptied: Path) -> None:
    before = emptied.stat().st_size
    (freed,) = give_back(instance).values()
    assert freed == before - emptied.stat().st_size > 60 << 20
    report(instance, "2026-01-01")
    assert materializations(instance) == ["2026-01-01"]


def test_a_database_that_others_write_to_is_left_to_the_next_night(
    instance: dg.DagsterInstance, emptied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "_PATIENCE_SECONDS", 0.1)
    with closing(sqlite3.connect(emptied, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        assert not give_back(instance)
    assert give_back(instance)


SENSOR = """
import dagster as dg

@dg.job
def nothing():
    pass

@dg.sensor(job=nothing, default_status=dg.DefaultSensorStatus.RUNNING)
def skipping(context):
    return dg.SkipReason("nothing to do")

definitions = dg.Definitions(jobs=[nothing], sensors=[skipping])
"""


def test_dagster_itself_purges_old_ticks(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    code = tmp_path / "one_sensor.py"
    code.write_text(SENSOR)
    workspace = tmp_path / "workspace.yaml"
    workspace.write_text(f"load_from: [{{python_file: {{relative_path: {code.name}}}}}]")
    hours = {TickStatus.SKIPPED: (36, 12), TickStatus.SUCCESS: (8 * 24, 36)}
    with WorkspaceProcessContext(instance, WorkspaceFileTarget(paths=[str(workspace)])) as context:
        (location,) = context.create_request_context().code_locations
        (repository,) = location.get_repositories().values()
        (sensor,) = repository.get_sensors()
        for status, ages in hours.items():
            for age in ages:
                at = later(-timedelta(hours=age)).timestamp()
                instance.create_tick(
                    TickData(
                        sensor.get_remote_origin_id(), sensor.name, InstigatorType.SENSOR, status, at,
                        run_ids=[], run_keys=[], selector_id=sensor.selector_id, end_timestamp=at,
                    )
                )  # fmt: skip
        for error in execute_sensor_iteration(context, logging.getLogger("test"), None, None):
            assert not error
    ticks = instance.get_ticks(sensor.get_remote_origin_id(), sensor.selector_id)
    left = [round((later(timedelta()).timestamp() - tick.timestamp) / 3600) for tick in ticks]
    assert sorted(left) == [0, 12, 36]


def test_ticks_of_schedules_are_purged_as_those_of_sensors(instance: dg.DagsterInstance) -> None:
    kept = [
        instance.get_tick_retention_settings(kind)
        for kind in (InstigatorType.SENSOR, InstigatorType.SCHEDULE)
    ]
    assert kept[0] == kept[1]
    assert all(days > 0 for days in kept[1].values())
