"""What failed once, or was changed by hand or by another program, comes right by itself."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bi_assets.contracts.contract import CONTRACTS
from bi_assets.landing.land import land
from bi_assets.outputs.publish import publish
from bi_assets.platform import warehouse
from bi_assets.refresh import refresh
from bi_assets.refresh.mart import Mart
from bi_assets.settings import Settings
from bi_assets.sql import transaction
from bi_assets.warehouse import Warehouse
from tests.histories import TABLES
from tests.landing.messages import Log, order, user
from tests.platform import Platform, assert_as_the_oracle, marts


@pytest.fixture
def log() -> Log:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("orders", "c", None, order(1))
    log.change("orders", "c", None, order(2, 30))
    return log


@pytest.fixture
def platform(log: Log) -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        platform.land(log.messages)
        platform.refresh()
        yield platform


@pytest.mark.parametrize("failing", list(marts()))
def test_a_mart_that_failed_once_and_all_that_read_it_come_right_at_the_next_refresh(
    platform: Platform, log: Log, failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed = len(log.messages)
    log.change("orders", "u", order(1), order(1, amount_total="777.00"), hours=50)
    platform.land(log.messages[landed:])
    compute = refresh.compute

    def fails_once(con: duckdb.DuckDBPyConnection, mart: Mart, days: Any) -> refresh.Refreshed:
        if mart.name == failing:
            con.execute("SELECT CAST('no number' AS INTEGER)")
        return compute(con, mart, days)

    with monkeypatch.context() as patched:
        patched.setattr(refresh, "compute", fails_once)
        platform.refresh()
    failed = f"SELECT breaches FROM meta.checks WHERE name = 'computes' AND mart = '{failing}'"
    assert platform.value(failed) == 1
    landed = len(log.messages)
    log.change("orders", "c", None, order(3, 60))
    platform.land(log.messages[landed:])
    platform.refresh()
    assert platform.value(failed) == 0
    assert_as_the_oracle(platform, log.messages)


def test_what_was_touched_stays_touched_when_the_disk_is_full(
    platform: Platform, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed = len(log.messages)
    log.change("orders", "u", order(1), order(1, amount_total="777.00"), hours=50)
    platform.land(log.messages[landed:])

    def no_room(*_: object) -> refresh.Refreshed:
        raise duckdb.IOException("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(refresh, "compute", no_room)
        with pytest.raises(duckdb.IOException):
            platform.refresh()
    platform.refresh()
    assert_as_the_oracle(platform, log.messages)


def test_days_computed_again_by_hand_are_followed_by_the_marts_that_read_them(
    platform: Platform, log: Log
) -> None:
    days = [row["order_date"] for row in platform.rows("marts.orders_with_discount")]
    platform.con.execute("DELETE FROM marts.order_value_by_discount_day")
    with transaction(platform.con):
        refresh.recompute(platform.con, platform.marts["orders_with_discount"], days)
    platform.refresh()
    assert_as_the_oracle(platform, log.messages)


def test_a_scheduled_mart_is_not_stale_once_it_has_been_computed_by_hand(
    platform: Platform, log: Log
) -> None:
    mart = platform.marts["order_value_by_discount"]
    landed = len(log.messages)
    log.change("orders", "u", order(1), order(1, amount_subtotal="90.00"), hours=50)
    platform.land(log.messages[landed:])
    platform.refresh(scheduled=False)
    assert refresh.is_stale(platform.con, mart)
    with transaction(platform.con):
        refresh.recompute(platform.con, mart, None)
    assert not refresh.is_stale(platform.con, mart)


@pytest.fixture
def files(tmp_path: Path) -> Warehouse:
    return warehouse(Settings(data_dir=tmp_path))


def fill(platform: Warehouse, log: Log) -> None:
    with platform.open(evolve=True) as con:
        with Platform() as batches, transaction(con):
            land(con, batches.batch(log.messages), platform.contracts, platform.settings)
        refresh.refresh(con, platform.marts, scheduled=True)
        publish(con, platform.marts, platform.settings)


def test_a_program_with_other_mart_files_leaves_the_tables_alone_unless_it_computes(
    files: Warehouse, log: Log
) -> None:
    fill(files, log)
    older = replace(files, marts={"orders_with_discount": files.marts["orders_with_discount"]})
    with older.open():
        pass
    with files.open() as con:
        assert con.execute("SELECT count(*) FROM marts.avg_order_value_by_discount").fetchall() == [(1,)]


def test_a_mart_that_is_yet_to_be_computed_is_published_as_it_last_was(files: Warehouse, log: Log) -> None:
    fill(files, log)
    older = replace(files, marts={"orders_with_discount": files.marts["orders_with_discount"]})
    with older.open(evolve=True):
        pass
    with files.open(evolve=True) as con:
        publish(con, files.marts, files.settings)
    with duckdb.connect(str(files.settings.published_file), read_only=True) as con:
        assert con.execute("SELECT count(*) FROM avg_order_value_by_discount").fetchall() == [(1,)]
        quality = "SELECT quality FROM _meta WHERE table_name = 'avg_order_value_by_discount'"
        assert con.execute(quality).fetchall() == [("last good version: a check fails",)]


def test_a_column_added_to_a_contract_is_filled_from_then_on(
    files: Warehouse, log: Log, tmp_path: Path
) -> None:
    fill(files, log)
    folder = tmp_path / "contracts"
    shutil.copytree(CONTRACTS, folder)
    with (folder / "orders.toml").open("a") as file:
        file.write('channel = { type = "varchar", privacy = "business" }\n')
    wider = warehouse(files.settings, folder)
    log.change("orders", "c", None, order(3, 60, channel="telephone"))
    fill(wider, log)
    with wider.open() as con:
        rows = con.execute("SELECT id, channel FROM state.orders ORDER BY id").fetchall()
    assert rows == [(1, None), (2, None), (3, "telephone")]
