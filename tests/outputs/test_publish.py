"""The analysts' file: always there, never torn, rounded once, and told what it is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from bi_assets import __version__
from bi_assets.outputs.publish import publish
from bi_assets.refresh.mart import Check
from bi_assets.settings import Settings
from tests.histories import TABLES
from tests.landing.messages import Log, order, user
from tests.platform import Platform, contracts, marts

PUBLICATIONS = 15


@pytest.fixture
def log() -> Log:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("orders", "c", None, order(1))
    return log


@pytest.fixture
def platform(log: Log, tmp_path: Path) -> Iterator[Platform]:
    with Platform(Settings(data_dir=tmp_path), tables=TABLES) as platform:
        platform.land(log.messages)
        platform.refresh()
        publish(platform.con, platform.marts, platform.settings)
        yield platform


def published(platform: Platform, sql: str) -> list[tuple[Any, ...]]:
    """Ask the published file, in a session of its own."""
    with duckdb.connect(str(platform.settings.published_file), read_only=True) as con:
        return con.execute(sql).fetchall()


def order_more(platform: Platform, log: Log, number: int) -> None:
    """Land one more order, refresh and publish."""
    platform.land([log.change("orders", "c", None, order(number))])
    platform.refresh()
    publish(platform.con, platform.marts, platform.settings)


def test_who_has_the_file_open_keeps_the_old_one_and_who_opens_it_next_gets_the_new(
    platform: Platform, log: Log
) -> None:
    target = platform.settings.published_file
    link = target.with_name("held.duckdb")
    os.link(target, link)  # the reader's inode: one process can't open one path in two versions
    with duckdb.connect(str(link), read_only=True) as reader:
        order_more(platform, log, 2)
        assert reader.execute("SELECT count(*) FROM orders_with_discount").fetchall() == [(1,)]
        assert published(platform, "SELECT count(*) FROM orders_with_discount") == [(2,)]


def test_readers_never_meet_a_missing_torn_or_locked_file(platform: Platform, log: Log) -> None:
    done = threading.Event()
    failures: list[str] = []
    reads = [0, 0]

    def read(reader: int) -> None:
        while not done.is_set():
            try:
                orders, counted = published(
                    platform,
                    "SELECT (SELECT count(*) FROM orders_with_discount), "
                    "(SELECT sum(n_orders) FROM order_value_by_discount_day)",
                )[0]
            except duckdb.Error as error:
                failures.append(str(error))
            else:
                reads[reader] += 1
                if orders != counted:
                    failures.append(f"{orders} orders, of which {counted} were counted")

    readers = [threading.Thread(target=read, args=(number,)) for number in range(2)]
    for reader in readers:
        reader.start()
    for number in range(PUBLICATIONS):
        order_more(platform, log, 10 + number)
    deadline = time.monotonic() + 30
    while min(reads) < PUBLICATIONS and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    for reader in readers:
        reader.join()
    assert failures == []
    assert min(reads) >= PUBLICATIONS


def test_a_wal_that_someone_left_beside_it_does_no_harm(platform: Platform, log: Log) -> None:
    target = platform.settings.published_file
    target.chmod(0o644)
    copy = target.with_name("copy.duckdb")
    copy.write_bytes(target.read_bytes())
    writer = duckdb.connect(str(copy), config={"checkpoint_threshold": "1TB"})
    writer.execute("CREATE TABLE scribble AS SELECT 1 AS x")
    wal = Path(f"{copy}.wal").read_bytes()
    assert wal
    writer.close()
    Path(f"{target}.wal").write_bytes(wal)
    order_more(platform, log, 2)
    assert published(platform, "SELECT count(*) FROM orders_with_discount") == [(2,)]
    assert not Path(f"{target}.wal").exists()


def test_what_a_killed_publication_left_is_cleared_away(platform: Platform, log: Log) -> None:
    target = platform.settings.published_file
    for left in (".marts.duckdb.4711.tmp", ".marts.duckdb.tmp", ".marts.duckdb.tmp.wal"):
        target.with_name(left).write_bytes(b"half a file")
    order_more(platform, log, 2)
    assert {path.name for path in target.parent.iterdir()} == {"marts.duckdb", ".marts.duckdb.previous"}


def test_nobody_can_write_to_it(platform: Platform) -> None:
    assert platform.settings.published_file.stat().st_mode & 0o222 == 0


def test_money_is_rounded_once_half_up(platform: Platform, log: Log) -> None:
    """0.005 of three orders is 0.02, not three times 0.01; below, a tie goes away from zero."""
    for number in (2, 3, 4):
        change = order(number, 25, amount_total="0.005", amount_subtotal="0.005")
        platform.land([log.change("orders", "c", None, change)])
    platform.refresh()
    publish(platform.con, platform.marts, platform.settings)
    day = "WHERE order_date = DATE '2024-05-02'"
    assert published(platform, f"SELECT DISTINCT amount_total FROM orders_with_discount {day}") == [
        (Decimal("0.01"),)
    ]
    assert published(platform, f"SELECT sum_amount FROM order_value_by_discount_day {day}") == [
        (Decimal("0.02"),)
    ]
    core = f"FROM marts.order_value_by_discount_day SELECT sum_amount {day}"
    assert platform.con.execute(core).fetchall() == [(Decimal("0.0150"),)]


def test_every_table_has_a_row_in_meta(platform: Platform) -> None:
    rows = published(platform, "SELECT table_name, as_of, version, quality FROM _meta ORDER BY ALL")
    assert rows == [(name, date(2024, 4, 30), __version__, "ok") for name in sorted(marts())]


def test_meta_tells_when_and_through_which_offsets(platform: Platform) -> None:
    ((published_at, through, offsets),) = published(
        platform, "SELECT DISTINCT published_at, complete_through, offsets FROM _meta"
    )
    assert published_at and through
    assert '"shop.shop.orders/0":1' in offsets


def test_every_table_and_column_says_what_it_means(platform: Platform) -> None:
    tables = dict(published(platform, "SELECT table_name, comment FROM duckdb_tables()"))
    assert {name: tables[name] for name in marts()} == {name: m.question for name, m in marts().items()}
    columns = published(
        platform, "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal"
    )
    assert [row for row in columns if row[0] in marts() and not row[2]] == []
    comments = {(table, column): comment for table, column, comment in columns}
    assert comments["order_value_by_discount_day", "sum_amount"].endswith("[money]")


def test_its_columns_are_those_declared_in_their_order(platform: Platform) -> None:
    for name, mart in marts().items():
        found = published(
            platform,
            f"SELECT column_name FROM duckdb_columns() WHERE table_name = '{name}' ORDER BY column_index",
        )
        assert [column for (column,) in found] == [column.name for column in mart.columns]


def test_it_has_the_storage_format_of_duckdb_1_2(platform: Platform) -> None:
    """Bytes 12 to 20 of a file are its format: 64 to 68 are read by DuckDB 1.x, 69 by 2.0 only."""
    header = platform.settings.published_file.read_bytes()[:20]
    assert header[8:12] == b"DUCK"
    assert int.from_bytes(header[12:20], "little") <= 65


def test_a_failing_error_check_keeps_that_tables_last_good_version_and_publishes_the_rest(
    platform: Platform, log: Log
) -> None:
    small = Check("small", "No order is large.", "SELECT 1 FROM refreshed WHERE amount_total > 1000", "error")
    platform.marts = {
        **marts(),
        "orders_with_discount": replace(marts()["orders_with_discount"], checks=(small,)),
    }
    large = order(2, amount_total="5000.00")
    platform.land([log.change("orders", "c", None, large)])
    order_more(platform, log, 3)
    assert published(platform, "SELECT count(*) FROM orders_with_discount") == [(1,)]
    assert published(platform, "SELECT sum(n_orders) FROM order_value_by_discount_day") == [(3,)]
    quality = dict(published(platform, "SELECT table_name, quality FROM _meta"))
    assert "last good" in quality["orders_with_discount"]
    assert quality["order_value_by_discount_day"] == "ok"

    platform.land([log.change("orders", "u", large, order(2))])
    order_more(platform, log, 4)
    assert published(platform, "SELECT count(*) FROM orders_with_discount") == [(4,)]
    assert dict(published(platform, "SELECT table_name, quality FROM _meta"))["orders_with_discount"] == "ok"


def test_a_failing_warning_is_published_and_told(platform: Platform, log: Log) -> None:
    item = {"id": 1, "order_id": 1, "quantity": 1, "refunded_amount": "500.00"}
    platform.land([log.change("order_items", "c", None, item)])
    platform.refresh()
    publish(platform.con, platform.marts, platform.settings)
    quality = dict(published(platform, "SELECT table_name, quality FROM _meta"))
    assert quality["orders_with_discount"].startswith("warning: refund_within_order")
    assert published(platform, "SELECT net_goods FROM orders_with_discount") == [(Decimal("-400.00"),)]


def test_nothing_but_the_marts_is_published(platform: Platform) -> None:
    tables = {name for (name,) in published(platform, "SELECT table_name FROM duckdb_tables()")}
    assert tables == {"_meta", *marts()}
    names = {
        name for (name,) in published(platform, "SELECT column_name FROM duckdb_columns() WHERE NOT internal")
    }
    excluded = {name for contract in contracts().values() for name in contract.excluded}
    assert not names & excluded
