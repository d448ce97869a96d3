"""Rows that a new snapshot no longer holds: reported, and deleted when a person says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bi_assets import source_status
from bi_assets.errors import UserError
from bi_assets.landing import sweep
from bi_assets.sql import transaction
from tests.histories import TABLES
from tests.landing.messages import Log, order, user, wall
from tests.platform import Platform, ends_of


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        yield platform


@pytest.fixture
def log() -> Log:
    """Patients 1 and 2 in the first snapshot, 3 by the stream; 2 and 3 are not in the second."""
    log = Log()
    snapshot(log, [user(1), user(2)], hours=0)
    log.change("users", "c", None, user(3), hours=1)
    snapshot(log, [user(1)], hours=5, pos=9_000)
    return log


def snapshot(log: Log, rows: list[dict[str, Any]], *, hours: float, last: bool = True, **place: Any) -> None:
    for row in rows:
        marker = "last_in_data_collection" if last and row == rows[-1] else "true"
        log.change("users", "r", None, row, hours=hours, snapshot=marker, **place)


def vanished(platform: Platform) -> list[int] | None:
    found = sweep.vanished(platform.con, platform.contracts["users"], "shop.shop.users")
    return None if found is None else [row["id"] for row in found.rows]


def apply(platform: Platform) -> None:
    with transaction(platform.con):
        sweep.apply(
            platform.con, platform.contracts["users"], frozenset(platform.contracts), platform.settings
        )


def present(platform: Platform) -> list[int]:
    return [row["id"] for row in platform.rows("state.users ORDER BY id")]


def problems(platform: Platform) -> list[str]:
    return source_status.tell(platform.con, platform.contracts, platform.settings).problems


def test_the_first_snapshot_sweeps_nothing(platform: Platform, log: Log) -> None:
    platform.land(log.messages[:2])
    assert vanished(platform) is None


def test_rows_that_are_not_in_a_second_snapshot_are_reported_and_left(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    assert vanished(platform) == [2, 3]
    assert present(platform) == [1, 2, 3]
    (problem,) = problems(platform)
    assert problem.startswith("users: 2 rows are no longer in the snapshot of 2024-05-01 17:00:00")
    assert "pharmacy-bi sweep users" in problem


def test_what_is_applied_is_deleted_as_of_the_snapshot(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    apply(platform)
    assert present(platform) == [1]
    rows = platform.rows("history.users WHERE is_deleted ORDER BY id")
    assert [(row["id"], row["valid_from"], row["valid_from_is_exact"]) for row in rows] == [
        (2, wall(5), False),
        (3, wall(5), False),
    ]
    assert {row["_snapshot"] for row in platform.rows("cdc.users WHERE _op = 'd'")} == {"sweep"}
    assert vanished(platform) == []
    assert problems(platform) == []


def test_applying_touches_the_days_of_the_patients_orders(platform: Platform, log: Log) -> None:
    log.change("orders", "c", None, order(1, 6, user_id=3), hours=6)
    platform.land(log.messages)
    platform.refresh()
    (row,) = platform.rows("marts.orders_with_discount")
    assert row["discount_source"] == "asof"
    apply(platform)
    platform.refresh()
    (row,) = platform.rows("marts.orders_with_discount")
    assert row["discount_source"] == "missing_patient"


def test_there_is_nothing_to_apply_twice(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    apply(platform)
    with pytest.raises(UserError, match="nothing to sweep in users"):
        apply(platform)


def test_a_row_that_comes_back_is_there_again(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    apply(platform)
    log.change("users", "c", None, user(3, -8.0), hours=6, pos=9_000)
    platform.land(log.messages[-1:])
    assert present(platform) == [1, 3]


def test_a_snapshot_without_its_last_row_sweeps_nothing(platform: Platform) -> None:
    log = Log()
    snapshot(log, [user(1), user(2)], hours=0)
    snapshot(log, [user(1)], hours=5, pos=9_000, last=False)
    platform.land(log.messages)
    assert vanished(platform) is None


def test_a_snapshot_that_was_begun_anew_sweeps_once_it_is_whole(platform: Platform) -> None:
    """The connector was killed in the midst of it, and begins again."""
    log = Log()
    snapshot(log, [user(1), user(2), user(3)], hours=0)
    snapshot(log, [user(1), user(2)], hours=5, pos=9_000, last=False)
    platform.land(log.messages)
    assert vanished(platform) is None
    snapshot(log, [user(1)], hours=6, pos=9_500)
    platform.land(log.messages[5:])
    assert vanished(platform) == [2, 3]


def test_a_snapshot_sweeps_nothing_while_a_partition_lags(platform: Platform, log: Log) -> None:
    ends = ends_of([*log.messages, log.change("users", "r", None, user(2), pos=9_000, partition=1)])
    platform.land(log.messages[:-1], ends=ends)
    assert vanished(platform) is None
    platform.land(log.messages[-1:], ends=ends)
    assert vanished(platform) == [3]


def test_what_the_stream_tells_after_the_snapshot_has_not_vanished(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(4), hours=6, pos=9_500)
    log.change("users", "u", user(2), user(2, -7.0), hours=6, pos=9_600)
    platform.land(log.messages)
    assert vanished(platform) == [3]


def test_an_incremental_snapshot_sweeps_nothing(platform: Platform) -> None:
    log = Log()
    snapshot(log, [user(1), user(2)], hours=0)
    log.change("users", "r", None, user(1), hours=5, pos=9_000, snapshot="incremental")
    platform.land(log.messages)
    assert vanished(platform) is None


def test_the_snapshot_of_a_new_server_sweeps_what_the_old_one_had(platform: Platform) -> None:
    log = Log()
    snapshot(log, [user(1), user(2)], hours=0, file="binlog.000123")
    snapshot(log, [user(1)], hours=5, file="binlog.000001")
    platform.land(log.messages[:2])
    platform.land(log.messages[2:])
    assert vanished(platform) == [2]
