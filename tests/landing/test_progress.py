"""How complete the data is: never the wall clock, never more than what every partition has."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import pytest

from tests.histories import TABLES
from tests.landing.messages import Log, order, user, wall
from tests.platform import Platform, ends_of, partition

ORDERS, USERS = partition("shop.shop.orders", 0), partition("shop.shop.users", 0)


@pytest.fixture
def log() -> Log:
    log = Log()
    log.change("users", "c", None, user(1), hours=1)
    log.change("orders", "c", None, order(1), hours=2)
    return log


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        yield platform


def test_nothing_is_complete_before_anything_has_landed(platform: Platform) -> None:
    progress = platform.land([]).progress
    assert (progress.complete_through, progress.as_of) == (None, None)


def test_caught_up_it_is_the_newest_change(platform: Platform, log: Log) -> None:
    assert platform.land(log.messages).progress.complete_through == wall(2)


def test_as_of_is_the_last_whole_business_day(platform: Platform, log: Log) -> None:
    assert platform.land(log.messages).progress.as_of == date(2024, 4, 30)


def test_heartbeats_alone_advance_it(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    progress = platform.land([log.heartbeat(50)]).progress
    assert (progress.complete_through, progress.as_of) == (wall(50), date(2024, 5, 2))


def test_heartbeats_alone_advance_the_scheduled_mart(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    platform.refresh()
    platform.land([log.heartbeat(50)])
    refreshed = platform.refresh()
    assert [r.mart.name for r in refreshed] == ["order_value_by_discount"]
    assert {row["as_of"] for row in platform.rows("marts.order_value_by_discount")} == {date(2024, 5, 2)}


def test_a_heartbeat_within_the_day_computes_nothing_again(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    platform.refresh()
    platform.land([log.heartbeat(3)])
    assert platform.refresh() == []


def test_a_lagging_partition_holds_it_back_to_what_it_has_landed(platform: Platform, log: Log) -> None:
    log.change("orders", "c", None, order(2), hours=5)
    log.change("users", "u", user(1), user(1, -6.0), hours=9)
    ends = ends_of(log.messages)
    progress = platform.land(
        [m for m in log.messages if m != log.messages[2]], ends={**ends, ORDERS: 2}
    ).progress
    # orders were read up to the change of two o'clock only
    assert progress.complete_through == wall(2)
    assert platform.land([log.messages[2]], ends=ends).progress.complete_through == wall(9)


def test_a_lagging_partition_that_has_landed_nothing_holds_everything_back(
    platform: Platform, log: Log
) -> None:
    progress = platform.land(log.messages[:1], ends=ends_of(log.messages)).progress
    assert progress.complete_through is None


def test_heartbeats_do_not_advance_it_while_a_partition_lags(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    beat = log.heartbeat(50)
    missing = log.change("orders", "c", None, order(2), hours=5)
    progress = platform.land([beat], ends=ends_of(log.messages)).progress
    assert progress.complete_through == wall(2)
    assert platform.land([missing], ends=ends_of(log.messages)).progress.complete_through == wall(50)


def test_it_never_goes_back(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    platform.land([log.heartbeat(50)])
    progress = platform.land([log.change("orders", "c", None, order(2), hours=-100)]).progress
    assert progress.complete_through == wall(50)


def test_it_never_passes_the_wall_clock(platform: Platform, log: Log) -> None:
    progress = platform.land([*log.messages, log.heartbeat(50)], read_at=wall(10)).progress
    assert progress.complete_through == wall(10)
