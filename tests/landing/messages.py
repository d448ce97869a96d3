"""Messages by hand: each call of a `Log` is the next offset of its topic."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from shop.debezium import HEARTBEAT_TOPIC, envelope, heartbeat, topic
from tests.oracle import Message

Row = dict[str, Any]
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def wall(hours: float = 0) -> datetime:
    """Return the naive UTC time some hours after `NOON`."""
    return (NOON + timedelta(hours=hours)).replace(tzinfo=None)


def user(number: int = 1, discount: object = -5.0, **columns: Any) -> Row:
    """Return a patient's row."""
    return {"id": number, "practitioner_id": 1, "practitioner_discount": discount, **columns}


def order(number: int = 1, hours: float = 1, **columns: Any) -> Row:
    """Return an order's row: of patient 1, some hours after `NOON`."""
    return {
        "id": number,
        "user_id": 1,
        "transaction_id": "T",
        "date": NOON + timedelta(hours=hours),
        "amount_total": "107.50",
        "amount_subtotal": "100.00",
        **columns,
    }


def _milliseconds(hours: float) -> int:
    return int((NOON + timedelta(hours=hours)).timestamp() * 1000)


class Log:
    """What Kafka holds. Changes are appended at the next binlog position."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._offsets: dict[tuple[str, int], int] = defaultdict(int)
        self._pos = 1_000

    def raw(
        self,
        table: str,
        key: bytes | None,
        value: bytes | None,
        *,
        partition: int = 0,
        headers: tuple[tuple[str, bytes], ...] = (),
        sent_ms: int = 0,
    ) -> Message:
        """Append bytes to the topic of a table."""
        return self._append(topic(table), partition, key, value, sent_ms, headers)

    def change(
        self,
        table: str,
        op: str,
        before: Row | None,
        after: Row | None,
        *,
        hours: float = 0,
        sent: float | None = None,
        partition: int = 0,
        headers: tuple[tuple[str, bytes], ...] = (),
        **source: Any,
    ) -> Message:
        """Append a change some hours after `NOON`, `sent` to Kafka then or some hours after `NOON`."""
        key, value = self.bytes_of(table, op, before, after, hours=hours, **source)
        sent_ms = _milliseconds(hours if sent is None else sent)
        return self.raw(table, key, value, partition=partition, headers=headers, sent_ms=sent_ms)

    def rekey(self, table: str, before: Row, after: Row, *, hours: float = 0, partition: int = 0) -> None:
        """Append the two changes and the tombstone of a changed primary key; the insert in `partition`."""
        keys = [self.bytes_of(table, "c", None, row)[0] for row in (before, after)]
        pos = self._pos + 100
        newkey, oldkey = ("__debezium.newkey", keys[1]), ("__debezium.oldkey", keys[0])
        self.change(table, "d", before, None, hours=hours, headers=(newkey,), pos=pos)
        self.raw(table, keys[0], None, headers=(newkey,))
        self.change(table, "c", None, after, hours=hours, headers=(oldkey,), pos=pos, partition=partition)

    def truncate(
        self,
        table: str,
        *,
        hours: float = 0,
        sent: float | None = None,
        partition: int = 0,
        **source: Any,
    ) -> Message:
        """Append a truncate at the next position."""
        _, value = self.bytes_of(table, "d", {"id": 0}, None, hours=hours, **source)
        told = json.loads(value) | {"op": "t", "before": None}
        sent_ms = _milliseconds(hours if sent is None else sent)
        return self.raw(table, None, json.dumps(told).encode(), partition=partition, sent_ms=sent_ms)

    def bytes_of(
        self, table: str, op: str, before: Row | None, after: Row | None, *, hours: float = 0, **source: Any
    ) -> tuple[bytes, bytes]:
        """Return (key, value) of a change at the next position, without appending it."""
        self._pos += 100
        place: dict[str, Any] = {
            "file": "binlog.000001",
            "pos": 4 if op == "r" else self._pos,
            "row": 0,
            "snapshot": "true" if op == "r" else "false",
            "source_ts_ms": int((NOON + timedelta(hours=hours)).timestamp()) * 1000,
            "ts_ms": 0,
            **source,
        }
        return envelope(table, op, before, after, **place)

    def heartbeat(self, hours: float) -> Message:
        """Append the connector's sign of life."""
        beat = heartbeat(_milliseconds(hours))
        return self._append(HEARTBEAT_TOPIC, 0, beat.key, beat.value, _milliseconds(hours))

    def _append(
        self,
        name: str,
        partition: int,
        key: bytes | None,
        value: bytes | None,
        sent_ms: int = 0,
        headers: tuple[tuple[str, bytes], ...] = (),
    ) -> Message:
        offset = self._offsets[name, partition]
        self._offsets[name, partition] += 1
        message = Message(name, partition, offset, key, value, sent_ms, headers)
        self.messages.append(message)
        return message
