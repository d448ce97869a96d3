"""What users of ksqlDB rely on, and what we do instead where it leaves them alone.

Our own cases for the behaviours that ksqlDB's functional tests speak of: stream-table joins, aggregates of
tables with changes and deletes, AVG and ROUND, timestamps. docs/ksqldb.md says where and why we differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bi_assets.settings import Settings
from tests.histories import TABLES
from tests.landing.messages import Log, order, user, wall
from tests.platform import Platform, Row

AVERAGES = "avg_order_value_by_discount"


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        yield platform


def land(platform: Platform, log: Log) -> None:
    """Land what the log holds and has not been landed, as one batch; then refresh."""
    platform.land(log.messages)
    log.messages.clear()
    platform.refresh()


def joined(platform: Platform, number: int = 1) -> Row:
    """Return an order's row of ORDERS_WITH_DISCOUNT."""
    (row,) = platform.rows(f"marts.orders_with_discount WHERE order_id = {number}")
    return row


def averages(platform: Platform) -> dict[float, tuple[Decimal | None, int]]:
    """Return discount: (average, orders)."""
    rows = platform.rows(f"marts.{AVERAGES}")
    return {float(row["discount"]): (row["avg_order_value"], row["n_orders"]) for row in rows}


def orders_at(log: Log, *amounts: str | None, hours: float = 1) -> None:
    """Have patient 1 order for these amounts; ids count from 1."""
    for number, amount in enumerate(amounts, start=1):
        log.change("orders", "c", None, order(number, hours, amount_total=amount), hours=hours)


# Stream-table join


def test_an_order_joins_the_patients_row_of_its_moment(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1, -5.0))
    log.change("orders", "c", None, order(1, 1), hours=1)
    land(platform, log)
    assert (joined(platform)["discount"], joined(platform)["discount_source"]) == (-5, "asof")


def test_a_later_change_of_the_table_leaves_earlier_orders_alone(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1, -5.0))
    log.change("orders", "c", None, order(1, 1), hours=1)
    land(platform, log)
    log.change("users", "u", user(1, -5.0), user(1, -8.0), hours=2)
    log.change("orders", "c", None, order(2, 3), hours=3)
    land(platform, log)
    assert (joined(platform, 1)["discount"], joined(platform, 2)["discount"]) == (-5, -8)


def test_a_table_row_that_comes_after_its_order_still_joins(platform: Platform, log: Log) -> None:
    """There: NULL, for good. The patient was there at the time; only the message was late."""
    log.change("orders", "c", None, order(1, 1), hours=1)
    land(platform, log)
    assert joined(platform)["discount_source"] == "missing_patient"
    log.change("users", "c", None, user(1, -5.0), hours=0)
    land(platform, log)
    assert (joined(platform)["discount"], joined(platform)["discount_source"]) == (-5, "asof")
    assert averages(platform) == {-5.0: (Decimal("107.50"), 1)}


def test_a_table_change_that_comes_after_its_order_corrects_it(platform: Platform, log: Log) -> None:
    """There: the discount that the table held when the order was processed."""
    log.change("users", "c", None, user(1, -5.0))
    log.change("orders", "c", None, order(1, 4), hours=4)
    land(platform, log)
    assert joined(platform)["discount"] == -5
    log.change("users", "u", user(1, -5.0), user(1, -8.0), hours=2)
    land(platform, log)
    assert joined(platform)["discount"] == -8
    assert averages(platform) == {-8.0: (Decimal("107.50"), 1)}


def test_an_order_without_a_table_row_is_kept_without_discount(platform: Platform, log: Log) -> None:
    log.change("orders", "c", None, order(1, 1), hours=1)
    land(platform, log)
    assert (joined(platform)["discount"], joined(platform)["discount_source"]) == (None, "missing_patient")
    assert averages(platform) == {}


def test_an_order_without_a_key_to_join_by_is_kept(platform: Platform, log: Log) -> None:
    """There: it is dropped, with a line in the processing log."""
    log.change("users", "c", None, user(1, -5.0))
    log.change("orders", "c", None, order(1, 1, user_id=None), hours=1)
    land(platform, log)
    assert (joined(platform)["discount"], joined(platform)["discount_source"]) == (None, "missing_patient")


def test_after_a_table_row_is_deleted_nothing_joins_and_what_had_joined_stays(
    platform: Platform, log: Log
) -> None:
    log.change("users", "c", None, user(1, -5.0))
    log.change("orders", "c", None, order(1, 1), hours=1)
    gone = log.change("users", "d", user(1, -5.0), None, hours=2)
    log.raw("users", gone.key, None)  # the tombstone: the deletion said it all
    log.change("orders", "c", None, order(2, 3), hours=3)
    land(platform, log)
    assert (joined(platform, 1)["discount"], joined(platform, 1)["discount_source"]) == (-5, "asof")
    assert (joined(platform, 2)["discount"], joined(platform, 2)["discount_source"]) == (
        None,
        "missing_patient",
    )


def test_a_changed_order_replaces_its_old_self(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1, -5.0))
    before, after = order(1, 1), order(1, 1, amount_total="60.00")
    log.change("orders", "c", None, before, hours=1)
    log.change("users", "u", user(1, -5.0), user(1, -8.0), hours=2)
    log.change("orders", "u", before, after, hours=3)
    land(platform, log)
    row = joined(platform)
    # Its discount is that of its own time, not of the time of the correction.
    assert (row["amount_total"], row["discount"], row["n_order_versions"]) == (Decimal("60.00"), -5, 2)


# Aggregates of a table


def test_a_changed_amount_is_taken_out_and_put_in_again(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1, -5.0))
    orders_at(log, "100.00", "50.00")
    land(platform, log)
    assert averages(platform) == {-5.0: (Decimal("75.00"), 2)}
    changed = order(2, 1, amount_total="70.00")
    log.change("orders", "u", order(2, 1, amount_total="50.00"), changed, hours=2)
    land(platform, log)
    assert averages(platform) == {-5.0: (Decimal("85.00"), 2)}


def test_a_deleted_order_leaves_its_average(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1, -5.0))
    orders_at(log, "100.00", "50.00")
    log.change("orders", "d", order(2, 1, amount_total="50.00"), None, hours=2)
    land(platform, log)
    assert averages(platform) == {-5.0: (Decimal("100.00"), 1)}


def test_a_group_without_orders_is_gone(platform: Platform, log: Log) -> None:
    """There: it stays, with a count of nothing and an average of NULL."""
    log.change("users", "c", None, user(1, -5.0))
    orders_at(log, "100.00")
    land(platform, log)
    log.change("orders", "d", order(1, 1, amount_total="100.00"), None, hours=2)
    land(platform, log)
    assert averages(platform) == {}


def test_an_order_that_moves_to_another_group_leaves_the_old_one(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1, -5.0))
    log.change("users", "u", user(1, -5.0), user(1, -8.0), hours=2)
    orders_at(log, "100.00", "50.00")
    land(platform, log)
    assert averages(platform) == {-5.0: (Decimal("75.00"), 2)}
    log.change("orders", "u", order(2, 1, amount_total="50.00"), order(2, 3, amount_total="50.00"), hours=4)
    land(platform, log)
    assert averages(platform) == {-5.0: (Decimal("100.00"), 1), -8.0: (Decimal("50.00"), 1)}


def test_an_amount_of_null_counts_nowhere(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1, -5.0))
    orders_at(log, "100.00", None)
    land(platform, log)
    assert averages(platform) == {-5.0: (Decimal("100.00"), 1)}


def test_a_discount_of_null_is_no_group_and_zero_is_one(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1, None))
    log.change("users", "c", None, user(2, 0.0))
    log.change("orders", "c", None, order(1, 1), hours=1)
    log.change("orders", "c", None, order(2, 1, user_id=2), hours=1)
    land(platform, log)
    assert averages(platform) == {0.0: (Decimal("107.50"), 1)}


def test_changes_sent_twice_are_counted_once(platform: Platform, log: Log) -> None:
    """There: a connector that resends makes a table of the same rows, and a stream count that is too high."""
    log.change("users", "c", None, user(1, -5.0))
    first = log.change("orders", "c", None, order(1, 1, amount_total="10.00"), hours=1)
    log.change("orders", "c", None, order(2, 1, amount_total="20.00"), hours=1)
    log.raw("orders", first.key, first.value)
    land(platform, log)
    assert averages(platform) == {-5.0: (Decimal("15.00"), 2)}


def test_the_maximum_over_a_table_goes_down_again(platform: Platform, log: Log) -> None:
    """There: MIN and MAX are for streams only, since they can't take anything back."""
    log.change("users", "c", None, user(1, -5.0))
    orders_at(log, "100.00", "900.00")
    log.change("orders", "d", order(2, 1, amount_total="900.00"), None, hours=2)
    land(platform, log)
    highest = "SELECT max(amount_total) FROM marts.orders_with_discount WHERE order_state <> 'deleted'"
    assert platform.value(highest) == Decimal("100.00")


# AVG and ROUND


@pytest.mark.parametrize(
    ("amounts", "average"),
    [
        (("100.00", "0.00", "0.00"), "33.33"),
        (("200.00", "0.00", "0.00"), "66.67"),
        (("0.00", "0.01"), "0.01"),  # a tie goes upwards
        (("1.00", "1.01"), "1.01"),  # 1.005 as a double lies below; its shortest form is what counts
        (("2.67", "2.68"), "2.68"),
        (("9999999999.99", "9999999999.99"), "9999999999.99"),
    ],
)
def test_the_average_is_rounded_to_two_decimals_ties_upwards(
    platform: Platform, log: Log, amounts: tuple[str, ...], average: str
) -> None:
    log.change("users", "c", None, user(1, -5.0))
    orders_at(log, *amounts)
    land(platform, log)
    assert averages(platform) == {-5.0: (Decimal(average), len(amounts))}


def test_an_amount_below_zero_is_set_aside_and_spoils_no_average(platform: Platform, log: Log) -> None:
    """There: it is averaged in. Here the contract says that no order has one."""
    log.change("users", "c", None, user(1, -5.0))
    orders_at(log, "100.00", "-1.00")
    land(platform, log)
    assert averages(platform) == {-5.0: (Decimal("100.00"), 1)}
    assert platform.value("SELECT count(*) FROM cdc.quarantine") == 1


def test_money_is_summed_without_the_drift_of_doubles(platform: Platform, log: Log) -> None:
    """There: a sum that has been added to and taken from a thousand times is off."""
    log.change("users", "c", None, user(1, -5.0))
    orders_at(log, *["0.10"] * 30)
    for number in range(2, 31):
        log.change("orders", "d", order(number, 1, amount_total="0.10"), None, hours=2)
    land(platform, log)
    assert platform.value("SELECT sum(sum_amount) FROM marts.order_value_by_discount_day") == Decimal("0.10")


# Timestamps


def in_berlin(log: Log) -> Platform:
    platform = Platform(Settings(data_dir=Path("unused"), business_timezone="Europe/Berlin"), tables=TABLES)
    land(platform, log)
    return platform


def test_the_time_of_an_order_is_its_own_and_not_that_of_the_message(platform: Platform, log: Log) -> None:
    """There too, where the stream is declared WITH (TIMESTAMP='date'); by default it is the message's."""
    log.change("users", "c", None, user(1, -5.0))
    log.change("users", "u", user(1, -5.0), user(1, -8.0), hours=2)
    log.change("orders", "c", None, order(1, 1), hours=48)
    land(platform, log)
    assert (joined(platform)["ordered_at"], joined(platform)["discount"]) == (wall(1), -5)


def test_epoch_milliseconds_keep_their_fraction(platform: Platform, log: Log) -> None:
    """TIMESTAMPTOSTRING(date, 'yyyy-MM-dd HH:mm:ss') loses it."""
    at = datetime(2024, 5, 1, 13, 0, 0, 789_000, tzinfo=UTC)
    log.change("users", "c", None, user(1, -5.0))
    log.change("orders", "c", None, order(1, date=at), hours=1)
    land(platform, log)
    assert joined(platform)["ordered_at"] == at.replace(tzinfo=None)


def test_the_day_of_an_order_is_that_of_the_business(log: Log) -> None:
    """Half past eleven in the evening, UTC, is the next day in Berlin."""
    at: Any = datetime(2024, 5, 1, 23, 30, tzinfo=UTC)
    log.change("users", "c", None, user(1, -5.0))
    log.change("orders", "c", None, order(1, date=at), hours=12)
    with in_berlin(log) as platform:
        assert joined(platform)["order_date"] == date(2024, 5, 2)


def test_the_year_of_an_order_is_that_of_the_business(log: Log) -> None:
    for number, at in enumerate(
        [datetime(2023, 12, 31, 22, 59, tzinfo=UTC), datetime(2023, 12, 31, 23, 0, tzinfo=UTC)], start=1
    ):
        log.change("orders", "c", None, order(number, date=at, amount_total=f"{number}0.00"))
    log.change("users", "r", None, user(1, -5.0), hours=-24 * 365)
    with in_berlin(log) as platform:
        rows = platform.rows(f"marts.{AVERAGES}_per_year ORDER BY order_year")
    assert [(row["order_year"], row["avg_order_value"]) for row in rows] == [
        (2023, Decimal("10.00")),
        (2024, Decimal("20.00")),
    ]


def test_a_groups_rowtime_is_that_of_its_newest_change(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1, -5.0))
    log.change("orders", "c", None, order(1, 1), hours=7)
    log.change("orders", "c", None, order(2, 2), hours=2)
    land(platform, log)
    (row,) = platform.rows(f"marts.{AVERAGES}")
    assert row["rowtime_ms"] == int((wall(7) - datetime(1970, 1, 1)).total_seconds() * 1000)  # noqa: DTZ001
