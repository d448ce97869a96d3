"""What a batch touches: the days that its changes can matter to, and no other."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest

from tests.histories import TABLES
from tests.landing.messages import Log, order, user
from tests.platform import Platform

DAYS = [date(2024, 5, day) for day in range(1, 11)]


@pytest.fixture
def log() -> Log:
    """Patient 1 since the first of May, patient 2 beside them; an order of each at noon of ten days."""
    log = Log()
    for patient in (1, 2):
        log.change("users", "c", None, user(patient))
        for number, _ in enumerate(DAYS):
            log.change(
                "orders",
                "c",
                None,
                order(100 * patient + number, 24 * number, user_id=patient),
                hours=24 * number,
            )
    return log


@pytest.fixture
def platform(log: Log) -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        platform.land(log.messages)
        platform.refresh()
        yield platform


def touched(platform: Platform, log: Log) -> list[date]:
    """Land what came to the log since, and return the days that it touched."""
    landed = platform.value("SELECT sum(messages) FROM meta.batches")
    platform.land(log.messages[landed:])
    return sorted({row["day"] for row in platform.rows("meta.touched")})


def test_an_appended_discount_change_touches_only_the_days_from_it_on(platform: Platform, log: Log) -> None:
    log.change("users", "u", user(1), user(1, -6.0), hours=24 * 6 + 1)
    assert touched(platform, log) == DAYS[7:]


def test_a_change_of_what_no_mart_reads_of_a_patient_touches_nothing(platform: Platform, log: Log) -> None:
    log.change("users", "u", user(1), user(1, register_date=None, clinic_id=7), hours=24 * 20)
    assert touched(platform, log) == []


def test_a_late_correction_of_an_order_touches_its_old_and_its_new_day(platform: Platform, log: Log) -> None:
    log.change("orders", "u", order(102, 48), order(102, 24 * 8), hours=24 * 9)
    assert touched(platform, log) == [DAYS[2], DAYS[8]]


def test_a_correction_that_stays_on_its_day_touches_that_day(platform: Platform, log: Log) -> None:
    log.change("orders", "u", order(102, 48), order(102, 48, amount_total="1.00"), hours=24 * 9)
    assert touched(platform, log) == [DAYS[2]]


def test_a_deleted_order_touches_its_day(platform: Platform, log: Log) -> None:
    log.change("orders", "d", order(104, 24 * 4), None, hours=24 * 9)
    assert touched(platform, log) == [DAYS[4]]


def test_an_item_touches_the_day_of_its_order(platform: Platform, log: Log) -> None:
    item = {"id": 1, "order_id": 103, "quantity": 1, "refunded_amount": "5.00"}
    log.change("order_items", "c", None, item, hours=24 * 9)
    assert touched(platform, log) == [DAYS[3]]


def test_an_item_that_moves_touches_the_days_of_both_orders(platform: Platform, log: Log) -> None:
    item = {"id": 1, "order_id": 103, "quantity": 1, "refunded_amount": "5.00"}
    log.change("order_items", "c", None, item, hours=24 * 9)
    touched(platform, log)
    platform.refresh()
    log.change("order_items", "u", item, {**item, "order_id": 105}, hours=24 * 9)
    assert touched(platform, log) == [DAYS[3], DAYS[5]]


def test_a_deleted_patient_touches_the_days_from_the_deletion_on(platform: Platform, log: Log) -> None:
    log.change("users", "d", user(1), None, hours=24 * 7 + 1)
    assert touched(platform, log) == DAYS[8:]


def test_a_first_version_touches_the_orders_before_it(platform: Platform, log: Log) -> None:
    log.change("orders", "c", None, order(301, 24 * 3, user_id=3), hours=24 * 3)
    touched(platform, log)
    platform.refresh()
    log.change("users", "c", None, user(3), hours=24 * 9)
    assert touched(platform, log) == [DAYS[3]]


def test_a_change_that_landed_late_touches_the_days_that_it_was_in_force(
    platform: Platform, log: Log
) -> None:
    """Patient 1's discounts of the 3rd and the 7th; what was between them arrives last."""
    log.change("users", "u", user(1), user(1, -6.0), hours=24 * 2 + 1, pos=50_000)
    log.change("users", "u", user(1, -7.0), user(1, -8.0), hours=24 * 7 + 1, pos=70_000)
    touched(platform, log)
    platform.refresh()
    log.change("users", "u", user(1, -6.0), user(1, -7.0), hours=24 * 4 + 1, pos=60_000)
    assert touched(platform, log) == DAYS[5:8]


def test_a_snapshot_row_that_repeats_the_state_touches_nothing(platform: Platform, log: Log) -> None:
    log.change("users", "r", None, user(1), hours=24 * 5, pos=90_000)
    assert touched(platform, log) == []


def test_what_is_touched_stays_until_it_is_refreshed(platform: Platform, log: Log) -> None:
    log.change("orders", "d", order(104, 24 * 4), None, hours=24 * 9)
    touched(platform, log)
    log.change("orders", "d", order(105, 24 * 5), None, hours=24 * 9)
    assert touched(platform, log) == [DAYS[4], DAYS[5]]
    platform.refresh()
    assert touched(platform, log) == []
