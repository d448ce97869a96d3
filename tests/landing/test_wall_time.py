"""The shop's wall clock to UTC and to business dates, compared with the standard library's zones."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from bi_assets.settings import Settings
from tests.landing.messages import Log, order, user
from tests.platform import Platform, assert_as_the_oracle

# zone, a day on which its clocks are put forward, one on which they are put back
CHANGES = [
    ("Europe/Berlin", datetime(2024, 3, 31, tzinfo=UTC), datetime(2024, 10, 27, tzinfo=UTC)),
    ("America/New_York", datetime(2024, 3, 10, tzinfo=UTC), datetime(2024, 11, 3, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2024, 10, 6, tzinfo=UTC), datetime(2024, 4, 7, tzinfo=UTC)),
]
STEP = timedelta(minutes=15)


def around(day: datetime) -> Iterator[datetime]:
    """Yield the wall clock from the noon before a day to the noon after, without zone."""
    for quarters in range(4 * 48):
        yield (day - timedelta(hours=12)).replace(tzinfo=None) + quarters * STEP


def is_repeated(wall: datetime, zone: ZoneInfo) -> bool:
    first, second = (wall.replace(tzinfo=zone, fold=fold).utcoffset() for fold in (0, 1))
    assert first is not None and second is not None
    return first > second


def is_missing(wall: datetime, zone: ZoneInfo) -> bool:
    there = wall.replace(tzinfo=zone)
    return there.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != wall


def utc_of(wall: datetime, zone: ZoneInfo) -> datetime:
    return wall.replace(tzinfo=zone, fold=0).astimezone(UTC).replace(tzinfo=None)


@pytest.mark.parametrize(("name", "forward", "back"), CHANGES)
def test_a_wall_time_is_its_first_occurrence_and_a_missing_one_is_shifted_forward(
    name: str, forward: datetime, back: datetime
) -> None:
    zone = ZoneInfo(name)
    walls = [*around(forward), *around(back)]
    assert any(is_repeated(wall, zone) for wall in walls)
    assert any(is_missing(wall, zone) for wall in walls)
    with Platform(Settings(data_dir=Path("unused"), source_timezone=name), marts_of={}) as platform:
        found = platform.con.execute(
            "SELECT utc_of_source(wall) FROM (SELECT UNNEST($walls::TIMESTAMP[]) AS wall)", {"walls": walls}
        ).fetchall()
    assert [utc for (utc,) in found] == [utc_of(wall, zone) for wall in walls]


@pytest.mark.parametrize(("name", "forward", "back"), CHANGES)
def test_a_business_date_is_the_calendar_day_of_the_business_zone(
    name: str, forward: datetime, back: datetime
) -> None:
    zone = ZoneInfo(name)
    times = [*around(forward), *around(back)]
    with Platform(Settings(data_dir=Path("unused"), business_timezone=name), marts_of={}) as platform:
        found = platform.con.execute(
            "SELECT business_date(utc) FROM (SELECT UNNEST($times::TIMESTAMP[]) AS utc)", {"times": times}
        ).fetchall()
    assert [day for (day,) in found] == [t.replace(tzinfo=UTC).astimezone(zone).date() for t in times]


@pytest.mark.parametrize("change", ["forward", "back"])
def test_orders_through_a_clock_change_have_the_times_days_and_discounts_of_the_model(change: str) -> None:
    name, forward, back = CHANGES[0]
    day = forward if change == "forward" else back
    log = Log()
    # changes every 40 minutes of UTC, orders every 15 minutes of the wall clock
    start = day - timedelta(hours=12)
    before = None
    for step in range(72):
        after = user(1, -float(step % 15))
        ts = int((start + step * timedelta(minutes=40)).timestamp()) * 1000
        log.change("users", "u" if before else "c", before, after, source_ts_ms=ts)
        before = after
    for number, wall in enumerate(around(day), start=1):
        log.change("orders", "c", None, order(number, date=wall))
    settings = Settings(data_dir=Path("unused"), source_timezone=name, business_timezone=name)
    with Platform(settings, tables=["users", "orders", "order_items"]) as platform:
        platform.land(log.messages)
        platform.refresh()
        assert_as_the_oracle(platform, log.messages, timezone=name, source_timezone=name)


@pytest.mark.parametrize(("name", "forward", "back"), CHANGES)
def test_wall_times_in_a_repeated_or_missing_hour_are_counted(
    name: str, forward: datetime, back: datetime
) -> None:
    zone = ZoneInfo(name)
    log = Log()
    walls = [*around(forward), *around(back)]
    for number, wall in enumerate(walls, start=1):
        log.change("orders", "c", None, order(number, date=wall))
    with Platform(
        Settings(data_dir=Path("unused"), source_timezone=name), tables=["users", "orders", "order_items"]
    ) as platform:
        counts = platform.land(log.messages).counts
    assert counts["repeated_hour"] == sum(is_repeated(wall, zone) for wall in walls)
    assert counts["missing_hour"] == sum(is_missing(wall, zone) for wall in walls)
