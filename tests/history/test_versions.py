"""The order of a key's versions, where positions, servers and snapshots disagree."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.histories import TABLES
from tests.landing.messages import Log, user, wall
from tests.platform import Platform, Row


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES, marts_of={}) as platform:
        yield platform


def versions(platform: Platform, log: Log) -> list[Row]:
    platform.land(log.messages)
    return platform.rows("history.users WHERE id = 1 ORDER BY version_no")


def discounts(platform: Platform, log: Log) -> list[float]:
    return [float(row["practitioner_discount"]) for row in versions(platform, log)]


def test_binlog_files_follow_by_number_though_their_positions_begin_anew(
    platform: Platform, log: Log
) -> None:
    log.change("users", "c", None, user(1), file="binlog.000009", pos=900)
    log.change("users", "u", user(1, -6.0), user(1, -7.0), file="binlog.000010", pos=500, hours=2)
    log.change("users", "u", user(1), user(1, -6.0), file="binlog.000010", pos=4, hours=1)
    assert discounts(platform, log) == [-5, -6, -7]


def test_a_binlog_file_of_seven_digits_follows_one_of_six(platform: Platform, log: Log) -> None:
    log.change("users", "u", user(1), user(1, -6.0), file="binlog.1000000", pos=4, hours=1)
    log.change("users", "c", None, user(1), file="binlog.999999", pos=900)
    assert discounts(platform, log) == [-5, -6]


def test_rows_of_one_event_follow_by_row(platform: Platform, log: Log) -> None:
    log.change("users", "u", user(1), user(1, -6.0), pos=500, row=2)
    log.change("users", "c", None, user(1), pos=500, row=1)
    assert discounts(platform, log) == [-5, -6]


def test_another_server_follows_in_kafkas_order(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1), file="binlog.000009", pos=900)
    log.change("users", "u", user(1), user(1, -6.0), file="binlog.000001", pos=4, server_id=2, hours=1)
    assert discounts(platform, log) == [-5, -6]


def test_another_binlog_name_follows_in_kafkas_order(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1), file="binlog.000009", pos=900)
    log.change("users", "u", user(1), user(1, -6.0), file="mysql-bin.000001", pos=4, hours=1)
    assert discounts(platform, log) == [-5, -6]


def test_a_server_that_takes_over_again_goes_on_after_the_one_between(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1), file="binlog.000009", pos=900)
    log.change("users", "u", user(1), user(1, -6.0), file="binlog.000001", pos=4, server_id=2, hours=1)
    log.change("users", "u", user(1, -6.0), user(1, -7.0), file="binlog.000010", pos=4, hours=2)
    log.change(
        "users", "u", user(1, -7.0), user(1, -8.0), file="binlog.000001", pos=950, server_id=2, hours=3
    )
    assert discounts(platform, log) == [-5, -6, -7, -8]


def test_a_stream_row_follows_a_snapshot_row_of_its_position(platform: Platform, log: Log) -> None:
    log.change("users", "r", None, user(1), pos=500)
    log.change("users", "u", user(1), user(1, -6.0), pos=500, hours=1)
    assert discounts(platform, log) == [-5, -6]


def test_the_snapshot_of_a_server_that_replaced_another_is_the_newer_state(
    platform: Platform, log: Log
) -> None:
    """The old server is lost; the connector takes a snapshot of the new one, whose binlog begins anew."""
    log.change("users", "c", None, user(1), file="binlog.000123", pos=900)
    log.change("users", "u", user(1), user(1, -6.0), file="binlog.000123", pos=950, hours=1)
    log.change("users", "r", None, user(1, -7.0), file="binlog.000001", pos=157, hours=2)
    log.change(
        "users", "u", user(1, -7.0), user(1, -8.0), file="binlog.000001", pos=300, server_id=2, hours=3
    )
    assert discounts(platform, log) == [-5, -6, -7, -8]


def test_a_snapshot_row_that_differs_is_a_version_not_exact(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1))
    log.change("users", "r", None, user(1, -6.0), file="binlog.000002", hours=5)
    first, second = versions(platform, log)
    assert (first["valid_from_is_exact"], second["valid_from_is_exact"]) == (True, False)
    assert second["valid_from"] == wall(5)


def test_a_version_does_not_begin_before_the_one_it_follows(platform: Platform, log: Log) -> None:
    """The second server's clock is behind."""
    log.change("users", "c", None, user(1), hours=2)
    log.change("users", "u", user(1), user(1, -6.0), hours=1, server_id=2)
    assert [row["valid_from"] for row in versions(platform, log)] == [wall(2), wall(2)]


def test_what_a_first_update_replaced_was_true_before_it(platform: Platform, log: Log) -> None:
    log.change("users", "u", user(1), user(1, -6.0), hours=1)
    before, after = versions(platform, log)
    assert (before["version_no"], float(before["practitioner_discount"])) == (0, -5)
    assert (before["valid_to"], after["valid_from"]) == (wall(1), wall(1))
    assert not before["valid_from_is_exact"]


def test_a_deleted_row_keeps_its_last_values_and_leaves_the_present(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1))
    log.change("users", "d", user(1), None, hours=1)
    assert [row["is_deleted"] for row in versions(platform, log)] == [False, True]
    assert platform.rows("state.users") == []


def test_a_row_that_comes_back_after_its_deletion_is_there_again(platform: Platform, log: Log) -> None:
    log.change("users", "c", None, user(1))
    log.change("users", "d", user(1), None, hours=1)
    log.raw("users", log.messages[-1].key, None)
    log.change("users", "c", None, user(1, -9.0), hours=2)
    assert [row["is_deleted"] for row in versions(platform, log)] == [False, True, False]
    assert [float(row["practitioner_discount"]) for row in platform.rows("state.users")] == [-9]


def test_a_change_that_comes_after_a_snapshot_row_of_a_later_place_goes_before_it(
    platform: Platform, log: Log
) -> None:
    log.change("users", "c", None, user(1), pos=100)
    platform.land(log.messages)
    log.change("users", "r", None, user(1), pos=900, snapshot="incremental")
    platform.land(log.messages)
    assert platform.value("SELECT count(*) FROM history.users") == 1
    log.change("users", "u", user(1), user(1, -7.0), pos=500, hours=1)
    assert discounts(platform, log) == [-5, -7, -5]


def test_a_key_goes_on_from_its_newest_version_over_many_batches(platform: Platform, log: Log) -> None:
    log.change("users", "r", None, user(1))
    for step in range(1, 5):
        log.change("users", "u", user(1), user(1, -5.0 - step), hours=step)
        found = versions(platform, log)
        assert [row["version_no"] for row in found] == list(range(1, step + 2))
        assert [row["valid_to"] for row in found[:-1]] == [row["valid_from"] for row in found[1:]]
        assert [row["valid_from_is_exact"] for row in found] == [False] + [True] * step
