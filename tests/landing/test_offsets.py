"""Offsets: of a broker's own topic, landed once, and told apart from those of another broker."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bi_assets.landing.land import land
from bi_assets.sql import transaction
from tests.histories import TABLES
from tests.landing.messages import Log, order, user
from tests.platform import Platform


@pytest.fixture
def log() -> Log:
    """A snapshot, changes, a duplicate and something malformed."""
    log = Log()
    log.change("users", "r", None, user(1))
    log.change("users", "u", user(1), user(1, -6.0), hours=1)
    log.change("users", "u", user(1, -6.0), user(1, -7.0), hours=2)
    log.change("orders", "c", None, order(1), hours=3)
    log.raw("orders", b'{"id":2}', b"not a message")
    return log


@pytest.fixture
def platform() -> Iterator[Platform]:
    with Platform(tables=TABLES) as platform:
        yield platform


def test_an_offset_that_has_landed_is_not_landed_again(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    before = [platform.tables(schema) for schema in ("cdc", "history")]
    platform.land(log.messages[1:])
    platform.land(log.messages)
    assert [platform.tables(schema) for schema in ("cdc", "history")] == before


def test_offsets_do_not_go_back_when_an_older_batch_lands_late(platform: Platform, log: Log) -> None:
    late = platform.batch(log.messages[:2])
    platform.land(log.messages)
    with transaction(platform.con):
        land(platform.con, late, platform.contracts, platform.settings)
    assert {row["topic"]: row["next_offset"] for row in platform.rows("meta.offsets")} == {
        "shop.shop.users": 3,
        "shop.shop.orders": 2,
    }


def test_a_new_broker_that_sends_old_changes_again_changes_nothing(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    platform.refresh()
    before = [platform.tables(schema) for schema in ("history", "marts")]
    stream = [m for m in log.messages if b'"op":"r"' not in (m.value or b"") and m.value != b"not a message"]
    renumbered = Log()
    for message in stream:
        renumbered.raw(message.topic.rpartition(".")[2], message.key, message.value)
    counts = platform.land(renumbered.messages, cluster="another").counts
    platform.refresh()
    assert (counts["landed"], counts["duplicates"]) == (0, 3)
    assert [platform.tables(schema) for schema in ("history", "marts")] == before


def test_a_new_broker_has_offsets_of_its_own_and_no_loss(platform: Platform, log: Log) -> None:
    platform.land(log.messages)
    platform.land(log.messages[:1], cluster="another")
    offsets = {(row["cluster_id"], row["topic"]): row["next_offset"] for row in platform.rows("meta.offsets")}
    assert offsets["cluster", "shop.shop.users"] == 3
    assert offsets["another", "shop.shop.users"] == 1
    assert not platform.rows("meta.losses")


def test_a_change_of_other_content_at_the_same_position_is_kept(platform: Platform) -> None:
    log = Log()
    log.change("users", "u", user(1), user(1, -6.0), pos=500)
    log.change("users", "u", user(1, -6.0), user(1, -7.0), pos=500)
    assert platform.land(log.messages).tables == {"users": 2}


def test_a_change_sent_again_is_found_in_the_log_and_in_its_own_batch(platform: Platform) -> None:
    log = Log()
    first = log.change("users", "c", None, user(1))
    log.raw("users", first.key, first.value)
    assert platform.land(log.messages).counts["duplicates"] == 1
    assert platform.land([log.raw("users", first.key, first.value)]).counts["duplicates"] == 1
    assert platform.value("SELECT count(*) FROM cdc.users") == 1


def test_snapshot_rows_are_never_taken_for_duplicates(platform: Platform) -> None:
    log = Log()
    for _ in range(3):
        log.change("users", "r", None, user(1))
    landed = platform.land(log.messages)
    assert landed.tables == {"users": 3}
    assert platform.value("SELECT count(*) FROM history.users") == 1
