"""The flattened form: as much of a history as its messages tell."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from bi_assets.landing.batch import Batch
from bi_assets.landing.land import Landed, land
from bi_assets.sql import transaction
from tests.histories import TABLES
from tests.landing.messages import NOON, Log, order, user, wall
from tests.oracle import Message
from tests.platform import Platform, contracts


class Flattened:
    """A platform that gets flattened rows; each is sent at a Kafka time of its own."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        self.log = Log()
        self._hours = 0

    def row(self, table: str, row: dict[str, Any], **told: Any) -> Message:
        """Append a row, with what `add.fields` puts beside it."""
        key, value = self.log.bytes_of(table, "c", None, row)
        image = json.loads(value)["after"]
        return self.log.raw(table, key, json.dumps({**image, **told}).encode())

    def tombstone(self, table: str, number: int) -> Message:
        """Append a tombstone."""
        return self.log.raw(table, b'{"id":%d}' % number, None)

    def land(self, *messages: Message) -> Landed:
        """Land messages, each sent an hour after the one before it."""
        batch = self.platform.batch(messages)
        tables = {}
        for topic, table in batch.messages.items():
            times = []
            for _ in range(table.num_rows):
                self._hours += 1
                times.append(int((NOON + timedelta(hours=self._hours)).timestamp() * 1000))
            index = table.schema.get_field_index("timestamp_ms")
            tables[topic] = table.set_column(index, "timestamp_ms", pa.array(times, pa.int64()))
        batch = Batch(tables, batch.next_offsets, batch.end_offsets, batch.read_at)
        with transaction(self.platform.con):
            landed = land(self.platform.con, batch, self.platform.contracts, self.platform.settings)
        self.platform._next.update(batch.next_offsets)
        return landed

    def history(self, table: str = "users") -> list[tuple[Any, ...]]:
        """Return what a key's versions are: discount or amount, since when, whether gone."""
        value = "practitioner_discount" if table == "users" else "amount_total"
        return self.platform.con.execute(
            f"SELECT {value}, valid_from, is_deleted FROM history.{table} WHERE id = 1 ORDER BY version_no"
        ).fetchall()


@pytest.fixture
def flat() -> Iterator[Flattened]:
    with Platform(tables=TABLES, marts_of={}) as platform:
        yield Flattened(platform)


def test_without_further_fields_kafka_says_when_and_in_what_order(flat: Flattened) -> None:
    flat.land(flat.row("users", user(1, -5.0)), flat.row("users", user(1, -7.0)))
    flat.land(flat.row("users", user(1, -6.0)))
    assert flat.history() == [(-5, wall(1), False), (-7, wall(2), False), (-6, wall(3), False)]
    (told,) = flat.platform.rows("meta.flattened")
    assert told["topic"] == "shop.shop.users"
    assert told["has_event_time"] is False


def test_further_fields_are_used(flat: Flattened) -> None:
    at = int((NOON - timedelta(hours=30)).timestamp() * 1000)
    place = {"__source_file": "binlog.000007", "__source_pos": 99, "__source_row": 1, "__source_server_id": 3}
    flat.land(flat.row("users", user(1), __op="c", __source_ts_ms=at, __table="users", **place))
    (row,) = flat.platform.rows("cdc.users")
    assert (row["_op"], row["_source_ts"]) == ("c", wall(-30))
    assert (row["_binlog_file"], row["_binlog_pos"], row["_row"], row["_server_id"]) == (
        "binlog.000007",
        99,
        1,
        3,
    )
    assert flat.platform.rows("meta.drift") == []
    (told,) = flat.platform.rows("meta.flattened")
    assert told["has_event_time"] is True


def test_a_rewritten_delete_is_one(flat: Flattened) -> None:
    flat.land(flat.row("users", user(1), __deleted="false"), flat.row("users", user(1), __deleted="true"))
    assert [gone for _, _, gone in flat.history()] == [False, True]


def test_a_tombstone_is_a_delete_where_there_is_no_other_sign(flat: Flattened) -> None:
    flat.land(flat.row("orders", order(1)))
    counts = flat.land(flat.tombstone("orders", 1)).counts
    assert (counts["landed"], counts["tombstones"]) == (1, 0)
    assert [(at, gone) for _, at, gone in flat.history("orders")] == [(wall(1), False), (wall(2), True)]


@pytest.mark.parametrize("batches", [1, 2])
def test_a_tombstone_after_a_delete_tells_nothing_new(flat: Flattened, batches: int) -> None:
    messages = [
        flat.row("users", user(1)),
        flat.row("users", user(1), __deleted="true"),
        flat.tombstone("users", 1),
    ]
    landed = [flat.land(*messages)] if batches == 1 else [flat.land(*messages[:2]), flat.land(messages[2])]
    assert sum(batch.counts["tombstones"] for batch in landed) == 1
    assert [gone for _, _, gone in flat.history()] == [False, True]


def test_a_row_that_comes_back_after_its_tombstone_is_there(flat: Flattened) -> None:
    flat.land(flat.row("users", user(1)), flat.tombstone("users", 1), flat.row("users", user(1, -9.0)))
    assert [gone for _, _, gone in flat.history()] == [False, True, False]


def test_a_tombstone_whose_key_cannot_be_read_is_set_aside(flat: Flattened) -> None:
    flat.land(flat.row("users", user(1)))
    counts = flat.land(flat.log.raw("users", b"one", None)).counts
    assert (counts["quarantined"], counts["tombstones"]) == (1, 0)
    assert flat.platform.value("SELECT cause FROM cdc.quarantine") == "a delete whose key can't be read"


def test_a_faulty_row_and_an_unknown_column_are_told_as_in_an_envelope(flat: Flattened) -> None:
    flat.land(
        flat.row("users", user(1, 5.0)),
        flat.row("orders", {**order(1), "gift": "yes"}),
        flat.log.raw("orders", None, b'{"id":2,"user_id":1,"amount_total":"1.00"}'),
    )
    causes = [row["cause"] for row in flat.platform.rows("cdc.quarantine ORDER BY topic")]
    assert causes[0].startswith("date is not a valid datetime(3), or is missing")
    assert causes[1].startswith("practitioner_discount is not a valid double")
    assert [row["column_name"] for row in flat.platform.rows("meta.drift")] == ["gift"]


def test_envelopes_may_follow(flat: Flattened) -> None:
    flat.land(flat.row("users", user(1, -5.0)))
    hours = timedelta(hours=1.5)
    change = flat.log.change("users", "u", user(1, -5.0), user(1, -8.0), hours=1.5)
    deleted = flat.log.change("users", "d", user(1, -8.0), None, hours=2.5)
    flat.land(change, deleted, flat.tombstone("users", 1))
    assert [(value, is_gone) for value, _, is_gone in flat.history()] == [
        (-5, False),
        (-8, False),
        (-8, True),
    ]
    assert flat.history()[1][1] == wall() + hours


def test_only_rows_of_another_shape_are_set_aside_where_the_contract_says_so() -> None:
    users = replace(contracts("users")["users"], schema_changes="quarantine")
    with Platform(marts_of={}, contracts_of={"users": users}) as platform:
        flat = Flattened(platform)
        sound = dict.fromkeys(users.names) | user(1)
        smaller = {name: value for name, value in sound.items() if name != "clinic_id"}
        flat.land(
            flat.row("users", sound),
            flat.row("users", {**sound, "id": 2, "colour": "red"}),
            flat.row("users", {**smaller, "id": 3}),
        )
        assert [row["id"] for row in platform.rows("state.users")] == [1]
        causes = platform.rows('(SELECT cause FROM cdc.quarantine ORDER BY "offset")')
        assert [row["cause"] for row in causes] == [
            "the shape of the row has changed: no contract names colour",
            "the shape of the row has changed: there is no clinic_id",
        ]
