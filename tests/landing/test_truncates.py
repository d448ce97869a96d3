"""Truncates: what the table held at that place is deleted there, whatever comes first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.histories import TABLES, World
from tests.landing.messages import Log, order, user, wall
from tests.platform import Platform, assert_as_the_oracle


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        yield platform


def log_of_a_truncate() -> Log:
    """Three patients before, one of them changed afterwards, one who is new then."""
    log = Log()
    log.change("users", "r", None, user(1))
    log.change("users", "c", None, user(2), partition=1)
    log.change("users", "d", user(2), None, partition=1, hours=1)
    log.change("users", "c", None, user(3), partition=2, hours=1)
    log.truncate("users", hours=2)
    log.change("users", "c", None, user(4), partition=1, hours=3)
    log.change("users", "c", None, user(3, -9.0), partition=2, hours=3)
    return log


def test_a_truncate_ends_every_row_of_its_table_and_no_other(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("orders", "c", None, order(1))
    log.truncate("orders", hours=2)
    counts = platform.land(log.messages).counts
    assert (counts["truncates"], counts["truncated"], counts["landed"]) == (1, 1, 2)
    assert (counts["quarantined"], counts["duplicates"]) == (0, 0)
    assert len(platform.rows("state.users")) == 1
    assert platform.rows("state.orders") == []
    (last,) = platform.rows("history.orders WHERE is_deleted")
    assert last["valid_from"] == wall(2)
    platform.refresh()
    assert_as_the_oracle(platform, log.messages)


def test_the_order_of_arrival_of_partitions_does_not_matter() -> None:
    """Every order of the three partitions, each a batch of its own."""
    messages = log_of_a_truncate().messages
    found = []
    for order_of_partitions in itertools.permutations(range(3)):
        with Platform(tables=TABLES, marts_of={}) as platform:
            for number in order_of_partitions:
                platform.land([message for message in messages if message.partition == number])
            columns = "id, version_no, valid_from, valid_to, is_deleted, practitioner_discount"
            found.append(platform.rows(f"(SELECT {columns} FROM history.users) ORDER BY ALL"))
            assert {row["id"] for row in platform.rows("state.users")} == {3, 4}
    assert all(rows == found[0] for rows in found)


def test_what_a_truncate_deleted_is_what_it_was_then_however_late_that_comes(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("users", "u", user(1), user(1, -6.0))
    log.change("users", "u", user(1, -6.0), user(1))
    log.truncate("users", hours=2, partition=1)
    log.change("users", "c", None, user(2), partition=2)
    log.truncate("users", hours=3, partition=1)
    created, changed, changed_back, first, other, second = log.messages
    platform.land([created, first])
    platform.land([second])
    platform.land([changed])
    (deleted,) = platform.rows("history.users WHERE is_deleted")
    assert (float(deleted["practitioner_discount"]), deleted["valid_from"]) == (-6, wall(2))
    platform.land([changed_back, other])
    (first_deleted, second_deleted) = platform.rows("history.users WHERE is_deleted ORDER BY id")
    assert (float(first_deleted["practitioner_discount"]), first_deleted["valid_from"]) == (-5, wall(2))
    assert second_deleted["valid_from"] == wall(3)


def test_what_had_been_deleted_before_is_not_deleted_by_the_truncate(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1))
    log.change("users", "d", user(1), None, hours=1)
    log.truncate("users", hours=2, partition=1)
    created, deleted, truncate = log.messages
    platform.land([created, truncate])
    platform.land([deleted])
    (last,) = platform.rows("history.users WHERE is_deleted")
    assert (last["valid_from"], last["version_no"]) == (wall(1), 2)


def test_a_truncate_that_is_sent_again_deletes_nothing_more(platform: Platform) -> None:
    log = log_of_a_truncate()
    platform.land(log.messages)
    before = platform.tables("history")
    (truncate,) = [message for message in log.messages if message.key is None]
    counts = platform.land([log.raw("users", None, truncate.value, partition=3)]).counts
    assert (counts["truncates"], counts["truncated"], counts["landed"]) == (1, 0, 0)
    assert platform.tables("history") == before


def test_a_row_of_another_server_that_had_landed_is_deleted(platform: Platform) -> None:
    log = Log()
    log.change("users", "c", None, user(1), file="mysql-bin.000009", server_id=7)
    platform.land(log.messages)
    log.truncate("users", hours=1)
    platform.land(log.messages[1:])
    assert platform.rows("state.users") == []


def test_a_truncate_with_a_row_is_no_truncate(platform: Platform) -> None:
    log = Log()
    change = log.change("users", "c", None, user(1))
    assert change.value
    log.raw("users", change.key, change.value.replace(b'"op":"c"', b'"op":"t"'))
    assert platform.land(log.messages).counts["quarantined"] == 1
    assert len(platform.rows("state.users")) == 1


def test_the_worlds_of_the_property_tests_have_truncates_changed_keys_and_mad_clocks() -> None:
    seen: set[str] = set()
    for seed in range(4):
        with Platform(tables=TABLES, marts_of={}) as platform:
            platform.land(World(seed, (20,) * 12).messages())
            seen |= {"truncate" for _ in platform.rows("cdc.users WHERE _snapshot = 'truncate'")}
            seen |= {"key" for _ in platform.rows("history.orders WHERE rekeyed_from IS NOT NULL")}
            seen |= {"clock" for _ in platform.rows("meta.future_changes")}
    assert seen == {"truncate", "key", "clock"}
