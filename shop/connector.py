"""The shop's Debezium: reads the binlog, writes Kafka, remembers what has landed.

The broker lives in memory and keeps little, so the connector is careful twice: it
produces no more than the platform can still fetch, and lets go of a change (deletes
it from the binlog) only when the platform's consumer group has committed all
messages up to it. After a restart everything behind that place is sent again, at
the same positions, by which a reader knows it.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from shop.broker import EmbeddedBroker
from shop.debezium import Message, heartbeat, key, messages
from shop.schema import TABLES
from shop.store import BinlogRow, Position, SqliteShop

MOST_UNCOMMITTED_BYTES = 2_500_000
"""Per partition; librdkafka's broker drops what exceeds about 5 MB."""
_CHUNK_BYTES = 500_000
_CHUNK_ROWS = 1_000
_RECORD_OVERHEAD_BYTES = 40
_REPLY_SECONDS = 2.0

Partition = tuple[str, int]


@dataclass(slots=True)
class _Sent:
    """A message on its way.

    `completes` is the binlog position that has landed with it and `rows` the number
    of row changes, None and 0 where more messages belong to the change.
    """

    topic: str
    size: int
    completes: Position | None
    rows: int
    partition: int = -1
    offset: int = -1
    committed: bool = False

    def delivered(self, partition: int, offset: int) -> None:
        """Note where the broker has put it."""
        self.partition, self.offset = partition, offset


class Connector:
    """One connector between a shop and a broker that was empty when it began.

    `group` is the consumer group whose commits say what has landed. What the shop
    did before `snapshot_at` reaches Kafka as the initial snapshot, the rest as a
    stream of changes. For one thread.
    """

    def __init__(self, shop: SqliteShop, broker: EmbeddedBroker, group: str, snapshot_at: datetime) -> None:
        self._shop = shop
        self._broker = broker
        self._snapshot_second = int(snapshot_at.timestamp())
        self._consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": group})
        noted = shop.note("landed")
        self._landed = Position(*noted) if noted else None
        self._produced_to = self._landed
        self._in_order: deque[_Sent] = deque()
        self._by_partition: dict[Partition, deque[_Sent]] = defaultdict(deque)
        self._uncommitted: dict[Partition, int] = defaultdict(int)
        self.landed = shop.changes - shop.binlog_size()
        """How many of all row changes of the shop are known to have landed."""
        self.produced = self.landed
        """How many row changes are in Kafka, or were and have landed."""
        self.produced_until_ms: int | None = None
        """Source time of the newest change in Kafka."""

    @property
    def waiting(self) -> int:
        """How many row changes are not in Kafka yet."""
        return self._shop.changes - self.produced

    def pump(self) -> int:
        """Produce the next chunk; return how many row changes it covered.

        0 means that nothing waits, or that the platform has to land something first.
        """
        fullest = max(self._uncommitted.values(), default=0)
        if not self.waiting or fullest + _CHUNK_BYTES > MOST_UNCOMMITTED_BYTES:
            return 0
        before = self.produced
        sent: list[_Sent] = []
        if self._produced_to is None:
            self._send_snapshot(sent)
        else:
            self._send_changes(sent)
        self._broker.flush()
        for one in sent:
            self._in_order.append(one)
            self._by_partition[one.topic, one.partition].append(one)
            self._uncommitted[one.topic, one.partition] += one.size
        return self.produced - before

    def confirm(self) -> None:
        """Ask what the platform has committed, and forget what has landed."""
        open_partitions = [TopicPartition(*where) for where, sent in self._by_partition.items() if sent]
        if not open_partitions:
            return
        try:
            committed = self._consumer.committed(open_partitions, timeout=_REPLY_SECONDS)
        except KafkaException:
            # No answer is no news: the next round asks again.
            return
        for found in committed:
            where = (found.topic, found.partition)
            sent = self._by_partition[where]
            while sent and sent[0].offset < found.offset:
                self._uncommitted[where] -= sent[0].size
                sent.popleft().committed = True
        before = self._landed
        while self._in_order and self._in_order[0].committed:
            one = self._in_order.popleft()
            self._landed = one.completes or self._landed
            self.landed += one.rows
        if self._landed is not None and self._landed != before:
            self._shop.purge(self._landed, {"landed": self._landed})

    def heartbeat(self, ts_ms: int) -> None:
        """Send the sign of life that says: everything up to `ts_ms` is in Kafka."""
        message = heartbeat(ts_ms)
        self._broker.produce(message.topic, message.key, message.value)
        self._broker.flush()

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()

    def _send_changes(self, sent: list[_Sent]) -> None:
        size = 0
        for row in self._shop.binlog(self._produced_to, _CHUNK_ROWS):
            change = messages(
                row.table,
                row.op,
                row.before,
                row.after,
                source_ts_ms=row.ts * 1000,
                file=row.position.file,
                pos=row.position.pos,
                row=row.position.row,
            )
            for message in change:
                last = message is change[-1]
                self._send(message, sent, row.position if last else None, int(last))
                size += sent[-1].size
            self._has_produced(row.position, row.ts, 1)
            if size > _CHUNK_BYTES:
                break

    def _send_snapshot(self, sent: list[_Sent]) -> None:
        """Send the tables as they were at the snapshot: all of it again after a crash.

        They are put together from the binlog, for the tables may have moved on. The
        snapshot has landed when its last row has.
        """
        opening = list(self._opening())
        at = opening[-1].position
        tables: dict[str, dict[bytes, dict[str, Any]]] = {table: {} for table in TABLES}
        for change in opening:
            if change.before is not None:
                del tables[change.table][key(change.table, change.before)]
            if change.after is not None:
                tables[change.table][key(change.table, change.after)] = change.after
        filled = {table: list(rows.values()) for table, rows in tables.items() if rows}
        for table, rows in filled.items():
            for number, image in enumerate(rows):
                first, last = number == 0, number == len(rows) - 1
                marker = _marker(first, last, table == next(iter(filled)), table == next(reversed(filled)))
                (message,) = messages(
                    table,
                    "r",
                    None,
                    image,
                    source_ts_ms=self._snapshot_second * 1000,
                    file=at.file,
                    pos=at.pos,
                    row=0,
                    snapshot=marker,
                )
                done = marker == "last"
                self._send(message, sent, at if done else None, len(opening) if done else 0)
        self._has_produced(at, self._snapshot_second, len(opening))

    def _opening(self) -> Iterator[BinlogRow]:
        after: Position | None = None
        while rows := self._shop.binlog(after, _CHUNK_ROWS):
            for row in rows:
                if row.ts >= self._snapshot_second:
                    return
                yield row
            after = rows[-1].position

    def _send(self, message: Message, sent: list[_Sent], completes: Position | None, rows: int) -> None:
        size = len(message.key) + len(message.value or b"") + _RECORD_OVERHEAD_BYTES
        one = _Sent(message.topic, size, completes, rows)
        self._broker.produce(
            message.topic,
            message.key,
            message.value,
            headers=message.headers,
            on_delivery=one.delivered,
        )
        sent.append(one)

    def _has_produced(self, position: Position, second: int, rows: int) -> None:
        self._produced_to = position
        self.produced_until_ms = second * 1000
        self.produced += rows


def _marker(first: bool, last: bool, first_table: bool, last_table: bool) -> str:
    """Return Debezium's word for a row's place in the snapshot."""
    if last:
        return "last" if last_table else "last_in_data_collection"
    if first:
        return "first" if first_table else "first_in_data_collection"
    return "true"
