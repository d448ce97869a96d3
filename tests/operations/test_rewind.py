"""A rewind reads again what has landed: nothing is lost, nothing doubles, what was missing is filled in."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from bi_assets.errors import UserError
from bi_assets.operations.quarantine import replay
from bi_assets.operations.rewind import rewind
from shop.broker import EmbeddedBroker
from tests.histories import World
from tests.landing.messages import Row, order, user
from tests.lives import lives
from tests.operations.desk import Desk
from tests.platform import assert_published_as_the_oracle

BEGINNING = "1970-01-01"
WORLD = World(3, (20,) * 20)
KILLS = 4


def test_a_rewind_to_the_beginning_changes_nothing(desk: Desk) -> None:
    desk.produce(WORLD.messages())
    desk.sync()
    before = desk.contents()
    done = rewind(desk.warehouse, BEGINNING)
    assert done.read > 300
    assert (done.replaced, done.landed, done.refreshed, done.gone) == (0, 0, [], {})
    assert desk.contents() == before
    assert_published_as_the_oracle(desk.settings, WORLD.messages())


def test_rows_that_were_damaged_are_restored_and_keep_when_they_landed(desk: Desk) -> None:
    desk.produce(WORLD.messages())
    desk.sync()
    before = desk.contents()
    desk.write("UPDATE cdc.orders SET amount_total = 0, user_id = 1 WHERE id % 3 = 0")
    assert desk.contents() != before
    done = rewind(desk.warehouse, BEGINNING)
    assert done.replaced > 20 and done.landed == 0
    assert desk.contents() == before
    assert_published_as_the_oracle(desk.settings, WORLD.messages())


def test_rows_that_are_gone_land_again(desk: Desk) -> None:
    desk.log.change("users", "c", None, user(1))
    desk.log.change("users", "u", user(1), user(1, -9.0), hours=1)
    desk.log.change("orders", "c", None, order(1, hours=2), hours=2)
    desk.sync()
    desk.write("DELETE FROM cdc.users")
    done = rewind(desk.warehouse, BEGINNING)
    assert (done.landed, done.replaced) == (2, 0)
    assert_published_as_the_oracle(desk.settings, desk.log.messages)


def test_a_column_that_was_added_later_is_filled(broker: EmbeddedBroker, tmp_path: Path) -> None:
    desk, other = Desk(broker, tmp_path / "one"), Desk(broker, tmp_path / "other")
    desk.produce(WORLD.messages())
    desk.without_column("users", "clinic_id")
    desk.sync()
    desk.with_all_contracts()
    desk.sync()
    assert desk.query("SELECT count(clinic_id), count(*) > 50 FROM cdc.users") == [(0, True)]
    done = rewind(desk.warehouse, BEGINNING)
    assert done.replaced > 50 and done.landed == 0
    other.sync()
    logs = """
SELECT id, clinic_id, practitioner_id, practitioner_discount, _before, _valid_from, _valid_to, _version_no
FROM cdc.users ORDER BY _partition, _offset"""
    assert desk.query(logs) == other.query(logs)
    assert_published_as_the_oracle(desk.settings, WORLD.messages())


def flattened(desk: Desk, row: Row, **told: Any) -> None:
    """A row as it comes flattened."""
    key, value = desk.log.bytes_of("users", "c", None, row)
    desk.log.raw("users", key, json.dumps({**json.loads(value)["after"], **told}).encode())


def deleted_and_made_again(desk: Desk) -> None:
    """A flattened row, deleted with both signs of it, and made again as it was: in two batches."""
    flattened(desk, user(1))
    flattened(desk, user(1), __deleted="true")
    desk.log.raw("users", b'{"id":1}', None)
    flattened(desk, user(1))
    desk.sync()
    flattened(desk, user(2))
    desk.sync()


@pytest.mark.parametrize("offset", range(5))
def test_a_flattened_row_made_again_after_its_tombstone_stays(desk: Desk, offset: int) -> None:
    deleted_and_made_again(desk)
    before = desk.contents()
    assert len(before["cdc.users"]) == 4
    done = rewind(desk.warehouse, f"users/0:{offset}")
    assert (done.read, done.replaced, done.landed) == (5 - offset, 0, 0)
    assert desk.contents() == before


@pytest.mark.parametrize(("gone", "landed"), [("_offset = 1", 1), ("_offset < 2", 2), ("true", 4)])
def test_flattened_rows_that_are_gone_land_again_in_their_order(desk: Desk, gone: str, landed: int) -> None:
    deleted_and_made_again(desk)
    history = "SELECT id, is_deleted, version_no FROM history.users ORDER BY id, version_no"
    before = desk.query(history)
    desk.write(f"DELETE FROM cdc.users WHERE {gone}")
    assert rewind(desk.warehouse, BEGINNING).landed == landed
    assert desk.query(history) == before == [(1, False, 1), (1, True, 2), (1, False, 3), (2, False, 1)]


def test_what_is_read_again_is_not_counted_again(desk: Desk) -> None:
    key, value = desk.log.bytes_of("users", "c", None, user(1, shoe_size=37), hours=24 * 365 * 20)
    desk.log.raw("users", key, value)
    flattened(desk, user(2, hat_size=58))
    desk.sync()
    counts = """
SELECT (SELECT sum(events) FROM meta.drift WHERE column_name = 'shoe_size'),
  (SELECT sum(events) FROM meta.drift WHERE column_name = 'hat_size'),
  (SELECT sum(events) FROM meta.future_changes)"""
    before = desk.contents()
    assert desk.query(counts) == [(1, 1, 1)]
    assert rewind(desk.warehouse, BEGINNING).read == 2
    assert desk.query(counts) == [(1, 1, 1)]
    assert desk.contents() == before


def test_only_the_range_is_read(desk: Desk) -> None:
    for hour in range(6):
        desk.log.change("users", "c", None, user(hour + 1), hours=hour)
    desk.log.change("orders", "c", None, order(1, hours=2), hours=2)
    desk.sync()
    since = rewind(desk.warehouse, "2024-05-01T16:00")
    assert (since.read, since.begins) == (2, {"shop.shop.users/0": 4})
    with_zone = rewind(desk.warehouse, "2024-05-01T18:00+02:00")
    assert with_zone.begins == since.begins
    offsets = rewind(desk.warehouse, "users/0:1, shop.shop.orders/0:0")
    assert (offsets.read, offsets.begins) == (6, {"shop.shop.users/0": 1, "shop.shop.orders/0": 0})
    as_published = rewind(desk.warehouse, '{"shop.shop.users/0": 3}')
    assert as_published.read == 3


def test_what_is_neither_time_nor_offsets_is_told(desk: Desk) -> None:
    for to in ("yesterday", "users/0", "users:7", "{]"):
        with pytest.raises(UserError, match="neither a time"):
            rewind(desk.warehouse, to)


@pytest.mark.parametrize("to", ["users/0:-5", '{"shop.shop.users/0": -1}'])
def test_an_offset_below_0_is_refused(desk: Desk, to: str) -> None:
    desk.log.change("users", "c", None, user(1))
    desk.sync()
    with pytest.raises(UserError, match="an offset below 0"):
        rewind(desk.warehouse, to)


def test_a_partition_that_never_landed_is_told(desk: Desk) -> None:
    with pytest.raises(UserError, match=r"Nothing has landed of shop.shop.users/9"):
        rewind(desk.warehouse, "users/9:0")


def test_what_has_not_landed_yet_is_left_to_landing(desk: Desk) -> None:
    desk.log.change("users", "c", None, user(1))
    desk.sync()
    desk.log.change("users", "c", None, user(2))
    desk.send()
    assert rewind(desk.warehouse, BEGINNING).read == 1
    assert desk.query("SELECT id FROM cdc.users") == [(1,)]
    desk.sync()
    assert desk.query("SELECT id FROM cdc.users ORDER BY id") == [(1,), (2,)]


def test_rows_that_kafka_no_longer_has_stay(desk: Desk) -> None:
    desk.log.change("users", "c", None, user(1))
    desk.log.change("orders", "c", None, order(1))
    desk.sync()
    for number in range(100, 140):
        desk.log.change("users", "c", None, user(number, note="x" * 400_000))
    desk.sync()
    before = desk.contents()
    done = rewind(desk.warehouse, BEGINNING)
    assert done.gone["shop.shop.users/0"] > 1
    assert (done.replaced, done.landed) == (0, 0)
    assert desk.contents() == before


def test_rows_of_a_broker_that_was_made_anew_are_told_apart(desk: Desk) -> None:
    """The same offsets again, of other messages."""
    desk.log.change("users", "c", None, user(1))
    desk.log.change("users", "c", None, user(2))
    desk.sync()
    with EmbeddedBroker() as broker:
        moved = Desk(broker, desk.settings.data_dir)
        moved.log._pos = 50_000
        moved.log.change("users", "c", None, user(1, -7.0))
        moved.log.change("users", "c", None, user(3))
        moved.sync()
        before = moved.contents()
        assert len(before["cdc.users"]) == 4
        done = rewind(moved.warehouse, BEGINNING)
        assert (done.read, done.replaced, done.landed) == (2, 0, 0)
        assert moved.contents() == before


def test_duplicates_stay_dropped_also_with_a_new_column(desk: Desk) -> None:
    first = desk.log.bytes_of("users", "c", None, user(1, clinic_id=4))
    for _ in range(2):
        desk.log.raw("users", *first)
    desk.log.change("users", "u", user(1), user(1, -6.0))
    desk.sync()
    desk.write("UPDATE cdc.users SET clinic_id = NULL")  # as if the column were new
    done = rewind(desk.warehouse, "users/0:1")
    assert (done.replaced, done.landed) == (0, 0)
    rewind(desk.warehouse, BEGINNING)
    assert desk.query("SELECT clinic_id, _offset FROM cdc.users ORDER BY ALL") == [(4, 0), (None, 2)]


def test_a_rewind_replays_what_is_in_quarantine(desk: Desk) -> None:
    desk.log.change("users", "c", None, user(1, 5.0))
    desk.sync()
    desk.with_contract("users", practitioner_discount={"maximum": None})
    done = rewind(desk.warehouse, BEGINNING)
    assert (done.landed, done.released) == (1, 1)
    assert replay(desk.warehouse).read == 0


def test_a_message_that_no_longer_fits_leaves_its_row_as_it_was(desk: Desk) -> None:
    desk.log.change("users", "c", None, user(1, -20.0))
    desk.sync()
    before = desk.contents()
    desk.with_contract("users", practitioner_discount={"minimum": -10})
    done = rewind(desk.warehouse, BEGINNING)
    assert (done.replaced, done.quarantined) == (0, 0)
    assert desk.contents() == before


def test_a_rewind_that_is_killed_again_and_again_doubles_nothing(desk: Desk) -> None:
    rng = random.Random(5)
    messages = World(6, (8,) * 10).messages()
    desk.produce(messages)
    desk.sync()
    before: dict[str, list[tuple[Any, ...]]] = desk.contents()
    kept = "SELECT count(*), min(_landed_at), max(_landed_at) FROM cdc.orders"
    landed = desk.query(kept)
    longest, ended = 0.8, 0
    with lives(desk.settings, "rewind") as rewinds:
        while rewinds.kills < KILLS or not ended:
            # Something to be restored, so that each batch writes.
            desk.write("UPDATE cdc.orders SET amount_total = 0 WHERE random() < 0.5")
            desk.write("UPDATE cdc.users SET practitioner_discount = 0 WHERE random() < 0.5")
            if rewinds.live(rng.uniform(0.0, longest)):
                ended += 1
                longest *= 0.8
            else:
                longest *= 1.2
        assert rewinds.live(60)
    assert desk.query(kept) == landed
    assert desk.contents() == before
    assert_published_as_the_oracle(desk.settings, messages)
