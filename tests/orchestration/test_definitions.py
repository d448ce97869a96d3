"""What a data engineer sees in Dagster."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from bi_assets.definitions import definitions
from bi_assets.orchestration import keys
from tests.orchestration.conftest import Location


def test_the_code_location_can_be_loaded(location: Location) -> None:
    dg.Definitions.validate_loadable(location.definitions)


def test_lineage_runs_from_the_shops_tables_to_the_published_file(location: Location) -> None:
    graph = location.definitions.resolve_asset_graph()
    upstream = {keys.PUBLISHED}
    found = set(upstream)
    while upstream:
        upstream = {parent for key in upstream for parent in graph.get(key).parent_keys} - found
        found |= upstream
    for table in ("orders", "users", "order_items"):
        assert {
            keys.shop_table(table),
            keys.topic(table),
            keys.change_log(table),
            keys.history(table),
        } <= found
    assert keys.mart("orders_with_discount") in found


def test_every_asset_of_ours_tells_what_it_is(location: Location) -> None:
    for spec in location.definitions.resolve_all_asset_specs():
        assert spec.description and spec.kinds and spec.group_name
        if spec.key != keys.PUBLISHED:
            schema = spec.metadata["dagster/column_schema"]
            assert schema.columns
            assert all(column.description for column in schema.columns), spec.key


def test_a_marts_columns_name_the_columns_that_they_come_from(location: Location) -> None:
    key = keys.mart("orders_with_discount")
    (spec,) = [spec for spec in location.definitions.resolve_all_asset_specs() if spec.key == key]
    lineage = spec.metadata["dagster/column_lineage"].deps_by_column
    assert dg.TableColumnDep(keys.history("users"), "practitioner_discount") in lineage["discount"]
    assert lineage["amount_total"] == [dg.TableColumnDep(keys.history("orders"), "amount_total")]


def test_every_check_is_a_sentence(location: Location) -> None:
    graph = location.definitions.resolve_asset_graph()
    checks = [graph.get_check_spec(key) for key in graph.asset_check_keys]
    assert len(checks) >= 10
    assert all(check.description and check.description.endswith(".") for check in checks)


def test_daily_marts_have_a_partition_for_today(location: Location) -> None:
    mart = location.warehouse.marts["orders_with_discount"]
    days = keys.partitions(mart, location.warehouse.settings)
    assert days is not None
    with location.warehouse.open() as con:
        (today,) = con.execute("SELECT business_date(CAST(now() AS TIMESTAMP))").fetchall()[0]
    assert days.has_partition_key(str(today))


def test_purging_and_compacting_run_every_night_in_the_business_time_zone(
    location: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BI_TIMEZONE", "Australia/Sydney")
    schedule = definitions().resolve_schedule_def("retention")
    assert (schedule.cron_schedule, schedule.execution_timezone) == ("30 3 * * *", "Australia/Sydney")
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING


@pytest.mark.parametrize(("hours", "asked"), [(1, dg.RunRequest), (30, dg.SkipReason)])
def test_of_several_missed_nights_the_last_is_made_up_for(
    location: Location, hours: int, asked: type[object]
) -> None:
    due = datetime.now(UTC) - timedelta(hours=hours)
    schedule = location.definitions.resolve_schedule_def("retention")
    answer = schedule(dg.build_schedule_context(scheduled_execution_time=due))
    assert isinstance(answer, asked)
