"""The job, the sensor and a person's re-materialization, on a real instance."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from bi_assets.orchestration import keys
from sensors.kafka_cdc import kafka_cdc
from tests import goldens
from tests.orchestration.conftest import Location

DAY = "2020-02-05"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def run(location: Location, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return location.definitions.resolve_job_def("micro_batch").execute_in_process(instance=instance)


def published(location: Location, sql: str) -> list[tuple[object, ...]]:
    with duckdb.connect(str(location.warehouse.settings.published_file), read_only=True) as con:
        return con.execute(sql).fetchall()


def test_a_run_lands_refreshes_and_publishes(location: Location, instance: dg.DagsterInstance) -> None:
    assert run(location, instance).success
    rows = published(location, "SELECT discount, avg_order_value FROM avg_order_value_by_discount")
    expected = goldens.load("07a").expected["expected"]
    assert set(rows) == {(row["discount"], row["avg_order_value"]) for row in expected}


def test_a_run_materializes_only_the_tables_that_changed(
    location: Location, instance: dg.DagsterInstance
) -> None:
    run(location, instance)
    assert instance.get_latest_materialization_event(keys.change_log("orders"))
    assert instance.get_latest_materialization_event(keys.history("users"))
    assert not instance.get_latest_materialization_event(keys.change_log("vouchers"))


def test_refreshed_partitions_stay_materialized_when_the_run_is_deleted(
    location: Location, instance: dg.DagsterInstance
) -> None:
    result = run(location, instance)
    instance.delete_run(result.run_id)
    for mart in ("orders_with_discount", "order_value_by_discount_day"):
        assert DAY in instance.get_materialized_partitions(keys.mart(mart))
    assert instance.get_latest_materialization_event(keys.PUBLISHED)


def test_the_outcome_of_each_check_is_told(location: Location, instance: dg.DagsterInstance) -> None:
    run(location, instance)
    graph = location.definitions.resolve_asset_graph()
    wanted = [key for key in graph.asset_check_keys if key.asset_key != keys.mart("order_value_by_discount")]
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(wanted)
    assert set(records) == set(wanted)
    assert {record.status for record in records.values()} == {AssetCheckExecutionRecordStatus.SUCCEEDED}


def test_a_person_can_materialize_a_range_again(location: Location, instance: dg.DagsterInstance) -> None:
    run(location, instance)
    with location.warehouse.open() as con:  # as a slip of the hand would
        con.execute("DELETE FROM marts.orders_with_discount WHERE order_date = ?", [DAY])
    mart = location.definitions.get_assets_def(keys.mart("orders_with_discount"))
    result = dg.materialize(
        [mart],
        instance=instance,
        tags={
            "dagster/asset_partition_range_start": "2020-02-04",
            "dagster/asset_partition_range_end": "2020-02-06",
        },
    )
    assert result.success
    assert all(check.passed for check in result.get_asset_check_evaluations())
    ((rows,),) = published(location, f"SELECT count(*) FROM orders_with_discount WHERE order_date = '{DAY}'")
    assert rows


def test_the_sensor_asks_for_a_run_when_there_is_news(
    location: Location, instance: dg.DagsterInstance
) -> None:
    sensor = kafka_cdc(location.warehouse)
    asked = sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(asked, dg.RunRequest)


def test_the_sensor_rests_when_everything_has_landed(
    location: Location, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensors.kafka_cdc._WAIT_SECONDS", 2.0)
    run(location, instance)
    rested = kafka_cdc(location.warehouse)(dg.build_sensor_context(instance=instance))
    assert isinstance(rested, dg.SkipReason)


def test_the_sensor_never_asks_for_a_second_run_beside_the_first(
    location: Location, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sensors.kafka_cdc._WAIT_SECONDS", 2.0)
    job = location.definitions.resolve_job_def("micro_batch")
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    waited = kafka_cdc(location.warehouse)(dg.build_sensor_context(instance=instance))
    assert isinstance(waited, dg.SkipReason)
    assert "under way" in (waited.skip_message or "")


def test_the_sensor_says_so_when_no_broker_answers(location: Location, instance: dg.DagsterInstance) -> None:
    nowhere = replace(location.warehouse.settings, bootstrap_servers="127.0.0.1:1")
    told = kafka_cdc(replace(location.warehouse, settings=nowhere))(
        dg.build_sensor_context(instance=instance)
    )
    assert isinstance(told, dg.SkipReason)
    assert "No Kafka broker answers" in (told.skip_message or "")


def test_the_nightly_run_purges_and_compacts(location: Location, tmp_path: Path) -> None:
    shutil.copy(Path(__file__).parents[2] / "dagster.yaml", tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        run(location, instance)
        night = location.definitions.resolve_job_def("retention").execute_in_process(instance=instance)
        told = {
            event.step_key: {name: value.value for name, value in event.step_output_data.metadata.items()}
            for event in night.filter_events(lambda event: event.is_successful_output)
        }
    assert told["purge_dagster"] == {"runs": 0, "materializations": 0, "checks": 0, "bytes given back": 0}
    assert told["compact_core"] == {"left as it is": True}
