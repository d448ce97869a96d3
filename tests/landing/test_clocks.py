"""Clocks that do not agree freeze nothing, and prove nothing that is not so."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bi_assets import source_status
from tests.histories import TABLES
from tests.landing.messages import Log, order, user, wall
from tests.platform import Platform, assert_as_the_oracle

YEARS = 75 * 365 * 24


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        yield platform


def problems(platform: Platform) -> list[str]:
    return source_status.tell(platform.con, platform.contracts, platform.settings).problems


def test_a_change_from_the_future_holds_back_no_later_change_of_its_key(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("users", "u", user(1), user(1, -6.0), hours=YEARS, sent=1)
    log.change("users", "u", user(1, -6.0), user(1, -7.0), hours=2)
    log.change("orders", "c", None, order(1, hours=3), hours=3)
    platform.land(log.messages)
    platform.refresh()
    versions = platform.rows("history.users ORDER BY version_no")
    assert [row["valid_from"] for row in versions] == [wall(0), wall(1), wall(2)]
    (row,) = platform.rows("marts.orders_with_discount")
    assert (float(row["discount"]), row["discount_source"]) == (-7, "asof")
    assert_as_the_oracle(platform, log.messages)


def test_a_truncate_from_the_future_freezes_nothing(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.truncate("users", hours=YEARS, sent=1)
    log.change("users", "c", None, user(1, -7.0), hours=2)
    platform.land(log.messages)
    versions = platform.rows("history.users ORDER BY version_no")
    assert [row["valid_from"] for row in versions] == [wall(0), wall(1), wall(2)]


def test_a_change_from_the_future_says_nothing_of_how_complete_the_data_is(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1), hours=YEARS, sent=1)
    assert platform.land(log.messages, read_at=wall(30)).progress.complete_through == wall(1)


def test_without_kafkas_time_a_change_from_the_future_is_of_when_it_landed(platform: Platform) -> None:
    log = Log()
    key, value = log.bytes_of("users", "c", None, user(1), hours=YEARS)
    log.raw("users", key, value)
    assert platform.land(log.messages, read_at=wall(30)).progress.complete_through == wall(30)
    (row,) = platform.rows("history.users")
    assert row["valid_from"] == wall(30)


def test_status_names_the_change_and_the_server_whose_clock_is_ahead(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1), hours=YEARS, sent=1, server_id=7)
    log.change("users", "c", None, user(2), hours=YEARS + 1, sent=2, server_id=7)
    platform.land(log.messages[:1])
    platform.land(log.messages[1:])
    (problem,) = problems(platform)
    assert problem.startswith("shop.shop.users/0, offset 1: changed on 2099-")
    assert "clock of server 7" in problem
    assert "sent on 2024-05-01 14:00:00" in problem
    assert "for 2 such changes" in problem


def test_a_clock_that_is_a_little_ahead_is_believed(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1), hours=1, sent=1 - 4 / 60)
    platform.land(log.messages)
    assert [row["valid_from"] for row in platform.rows("history.users")] == [wall(1)]
    assert problems(platform) == []


def test_an_order_dated_in_the_future_is_landed_and_freezes_nothing(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("orders", "c", None, order(1, hours=YEARS), hours=1)
    assert platform.land(log.messages).progress.complete_through == wall(1)
    log.change("orders", "c", None, order(2, hours=2), hours=2)
    assert platform.land(log.messages[-1:]).progress.complete_through == wall(2)
    platform.refresh()
    assert_as_the_oracle(platform, log.messages)


def test_the_heartbeat_of_a_connector_that_catches_up_proves_no_more_than_its_changes(
    platform: Platform,
) -> None:
    """It was down for eight hours, and tells its own clock while it reads what happened then."""
    log = Log()
    log.change("users", "c", None, user(1), hours=1, sent=9)
    log.heartbeat(9 + 5 / 3600)
    assert platform.land(log.messages).progress.complete_through == wall(1 + 5 / 3600)
    caught_up = log.change("users", "u", user(1), user(1, -6.0), hours=9.1, sent=9.1)
    beat = log.heartbeat(9.2)
    assert platform.land([caught_up, beat]).progress.complete_through == wall(9.2)


def test_a_minute_of_silence_says_that_the_connector_has_caught_up(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1), hours=1, sent=9)
    log.heartbeat(9 + 61 / 3600)
    assert platform.land(log.messages).progress.complete_through == wall(9 + 61 / 3600)


def test_how_far_the_connector_lags_is_remembered_over_batches(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1), hours=1, sent=9)
    platform.land(log.messages)
    assert platform.land([log.heartbeat(9 + 5 / 3600)]).progress.complete_through == wall(1 + 5 / 3600)


@pytest.mark.parametrize(
    ("unread", "hours", "is_dead"),
    [(0, 10.1, True), (0, 10.04, False), (3, 10.1, False), (None, 10.1, False)],
    ids=["three minutes of silence", "two minutes", "heartbeats not read yet", "no broker"],
)
def test_no_orders_differ_from_a_dead_connector(
    platform: Platform, unread: int | None, hours: float, is_dead: bool
) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.heartbeat(10)
    platform.land(log.messages)
    told = source_status.life(platform.con, unread, wall(hours))
    assert told.notes == []
    assert [p.partition(" (UTC)")[0] for p in told.problems] == (
        ["No sign of life from the connector since 2024-05-01 22:00:00"] if is_dead else []
    )


def test_a_connector_without_heartbeats_is_told_to_send_them(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    platform.land(log.messages)
    told = source_status.life(platform.con, 0, wall(50))
    assert told.problems == []
    assert [note.partition(":")[0] for note in told.notes] == ["The connector sends no heartbeats"]
